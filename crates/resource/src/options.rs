//! The switches that resources look at, free of how they were set.

use std::collections::HashMap;
use std::os::fd::RawFd;

/// How established TCP connections are kept quiet between dump and restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkLock {
    /// The iptables tools.
    Iptables,
    /// nftables.
    #[default]
    Nftables,
    /// Not at all.
    Skip,
}

/// Options of a dump or a restore. The names are those of the command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Established TCP connections may be dumped and restored.
    pub tcp_established: bool,
    /// Established TCP connections are restored as closed sockets.
    pub tcp_close: bool,
    /// The tree may be a job of a shell: its session leader and terminal lie outside.
    pub shell_job: bool,
    /// File locks may be dumped and restored.
    pub file_locks: bool,
    /// Unix sockets with a peer outside the tree: accept all, or those with these inodes.
    pub ext_unix_sk: Option<Vec<u64>>,
    /// Inode of our end of the connection to an RPC client. A client within the tree has the other end; once
    /// restored, it finds the answer to its request there.
    pub service_socket: Option<u64>,
    /// Half-open TCP connections are ignored.
    pub skip_in_flight: bool,
    /// Deleted files are linked back to a name rather than stored.
    pub link_remap: bool,
    /// Largest deleted file that is stored, in bytes. Zero: the default of 1 MiB.
    pub ghost_limit: u64,
    /// Any path to a device file will do.
    pub evasive_devices: bool,
    /// Always search paths for inotify targets.
    pub force_irmap: bool,
    /// Further directories to search for inotify targets.
    pub irmap_scan_path: Vec<String>,
    /// Resources that somebody else provides: `kind[id]` or `kind[id]:name`.
    pub external: Vec<String>,
    /// Key of a file (`pipe:[123]`, `/path`, `tty[1:2]`) → descriptor of criu-rs that takes its place.
    pub inherit_fd: HashMap<String, RawFd>,
    /// How files are compared on restore: true adds the build-id to size and mode.
    pub file_validation_buildid: bool,
    /// The mode of a file need not match on restore.
    pub skip_file_rwx_check: bool,
    /// How connections are kept quiet.
    pub network_lock: NetworkLock,
    /// The tree goes on running after the dump.
    pub leave_running: bool,
    /// Where the tree goes on running: its pages are written while it does, from a copy of its memory.
    pub copy_on_write: bool,
    /// The tree stays stopped after the dump.
    pub leave_stopped: bool,
    /// The restored root becomes a child of the caller's parent.
    pub restore_sibling: bool,
    /// criu-rs ends once the tree runs.
    pub restore_detached: bool,
    /// New root directory for the restored tree, if any.
    pub root: Option<String>,
}
