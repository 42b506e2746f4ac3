//! From the configuration's options to those that the resources look at.

use criu_config::{FileValidation, FinalState, NetworkLock, Options};
use criu_kernel::features::Feature;
use criu_resource as resource;
use std::time::Duration;

/// Options of the pipelines.
pub fn pipeline(options: &Options) -> resource::Options {
    let state = options.final_state();
    let inherited = options.inherited();
    resource::Options {
        tcp_established: options.tcp_established,
        tcp_close: options.tcp_close,
        shell_job: options.shell_job,
        file_locks: options.file_locks,
        ext_unix_sk: options
            .ext_unix_sk
            .as_ref()
            .map(|inodes| inodes.iter().map(|&ino| ino.into()).collect()),
        service_socket: None, // known to the RPC alone
        skip_in_flight: options.skip_in_flight,
        link_remap: options.link_remap,
        ghost_limit: options.ghost_limit,
        evasive_devices: options.evasive_devices,
        force_irmap: options.force_irmap,
        irmap_scan_path: options.irmap_scan_path.iter().map(|path| path.display().to_string()).collect(),
        external: options.external.clone(),
        inherit_fd: inherited.into_iter().map(|inherited| (inherited.key, inherited.fd)).collect(),
        file_validation_buildid: options.file_validation == FileValidation::Buildid,
        skip_file_rwx_check: options.skip_file_rwx_check,
        network_lock: match options.network_lock {
            NetworkLock::Auto if !Feature::NfTables.is_available() => resource::NetworkLock::Iptables,
            NetworkLock::Auto | NetworkLock::Nftables => resource::NetworkLock::Nftables,
            NetworkLock::Iptables => resource::NetworkLock::Iptables,
            NetworkLock::Skip => resource::NetworkLock::Skip,
        },
        leave_running: state == FinalState::Running,
        copy_on_write: options.copy_on_write,
        leave_stopped: state == FinalState::Stopped,
        restore_sibling: options.restore_sibling,
        restore_detached: options.restore_detached,
        root: options.root.as_ref().map(|path| path.display().to_string()),
    }
}

/// How long a dump or restore may take.
pub fn timeout(options: &Options) -> Duration {
    match options.timeout {
        0 => Duration::MAX / 4,
        seconds => Duration::from_secs(seconds.into()),
    }
}
