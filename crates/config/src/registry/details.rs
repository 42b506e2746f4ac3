//! What one line of help cannot say, for the man page and the reference page.

use super::Opt;

impl Opt {
    /// More words about the option, if it needs them.
    pub fn detail(&self) -> Option<&'static str> {
        DETAILS.iter().find(|(name, _)| *name == self.name).map(|(_, text)| *text)
    }
}

pub(super) const DETAILS: &[(&str, &str)] = &[
    (
        "leave-running",
        "The tasks go on changing files and connections after the checkpoint, so restore the images only together \
         with a copy of the files from the same moment. Of this option and leave-stopped, the one set last holds.",
    ),
    (
        "restore-sibling",
        "The root task becomes a child of the process that started criu-rs, which can then wait for it.",
    ),
    (
        "exec-cmd",
        "After the restore criu-rs becomes that command, with the same pid, and so the parent of the root task. \
         Not together with restore-detached.",
    ),
    (
        "shell-job",
        "A task whose session leader, process group leader or terminal lies outside the tree cannot be restored by \
         itself. With this option such a task joins the session, group and terminal of criu-rs on restore; set it on \
         dump and on restore.",
    ),
    ("timeout", "On dump, for a task to stop; on restore, for any task to get further. 0 waits for ever."),
    (
        "freeze-cgroup",
        "The tree is stopped as a whole either way: parents first, so that no child gets away.",
    ),
    (
        "cpu-cap",
        "A list separated by commas. fpu: the FPU is compatible; ins: all instructions are there; cpu: the CPU \
         matches exactly; all: these three; none: nothing is checked and no image is written. ^ before a word takes \
         it away. The list adds to what weaker layers set; begin it with none to start anew.",
    ),
    (
        "action-script",
        "The script finds the stage in CRTOOLS_SCRIPT_ACTION: pre-dump, post-dump, pre-restore, post-restore, \
         network-lock, network-unlock, setup-namespaces, post-setup-namespaces, pre-resume, post-resume; of a server \
         status-ready. CRTOOLS_IMAGE_DIR names the images and CRTOOLS_INIT_PID, from the moment when there is one, \
         the root task. A script that fails fails the action, which is undone; at post-resume it is too late for \
         that, and the log warns. Every dump and restore has all its stages, also those of namespaces for a tree that \
         has none of its own.",
    ),
    (
        "tcp-established",
        "Connections are locked from dump to restore, so that the peer sees silence and not a reset.",
    ),
    ("tcp-close", "For tasks that connect anew by themselves. Dump keeps no state and locks nothing."),
    (
        "skip-in-flight",
        "A connection that a listening socket has not accepted yet is left out instead of failing the dump; the \
         client's TCP tries again.",
    ),
    (
        "network-lock",
        "auto takes nftables, and iptables where the kernel has no nf_tables. skip (or none) locks nothing: somebody \
         else has to keep packets away from the connections between dump and restore. Restore unlocks with the \
         method that dump used.",
    ),
    (
        "ext-unix-sk",
        "Without a value any peer may lie outside the tree; with inode numbers, separated by commas, only those.",
    ),
    ("file-locks", "Safe only where every process that uses the locked files is in the tree."),
    (
        "link-remap",
        "A deleted file that is still open and has other links gets a temporary name beside its old one, which \
         restore removes.",
    ),
    ("ghost-limit", "A deleted file without other links is carried in the images, up to this size."),
    (
        "file-validation",
        "buildid compares the build id of ELF files, and sizes where there is none; filesize compares only sizes.",
    ),
    (
        "external",
        "On dump: mnt[MOUNTPOINT]:NAME, mnt[]:FLAGS (m, s), dev[MAJOR/MINOR]:NAME, file[MNT_ID:INODE], \
         tty[RDEV:DEV], unix[INODE], net[INODE]:NAME, pid[INODE]:NAME. On restore: mnt[NAME]:PATH, mnt[], \
         dev[NAME]:PATH, veth[INNER]:OUTER@BRIDGE, macvlan[INNER]:OUTER. Descriptors come back with inherit-fd.",
    ),
    (
        "inherit-fd",
        "RESOURCE is tty[RDEV:DEV], pipe[INODE], socket[INODE], file[MNT_ID:INODE] or a path without its leading \
         slash. The brackets are meant literally; keep them from the shell.",
    ),
    (
        "ext-mount-map",
        "On dump KEY is the mount point and VALUE its name in the images; on restore the other way round.",
    ),
    (
        "join-ns",
        "NS is ipc, net, time, user or uts, and FILE a namespace file. For user, UID and GID may follow: \
         user:PID,UID,GID.",
    ),
    (
        "manage-cgroups",
        "none: the groups must exist and keep their properties; props: they must exist and get their properties \
         back; soft: properties only in groups that restore creates; full: all groups and properties; strict: the \
         same, and no group may exist before; ignore: leave cgroups alone. Cgroups are not dumped or restored yet: \
         restored tasks stay in the cgroup of criu-rs, and the log warns where a mode asks for more.",
    ),
    ("cgroup-root", "Without a controller it holds for all those that are not named."),
    ("cgroup-yard", "One directory for each mount, named after its controllers, separated by commas."),
    (
        "pre-dump-mode",
        "splice reads from inside the tasks, read from outside: less frozen time, less memory held.",
    ),
    ("track-mem", "Every dump writes all pages, which is always right; nothing needs to be tracked for it."),
    ("auto-dedup", "No dump has a parent yet, so no page is ever superseded."),
    ("libdir", "criu-rs has no plugins. Containers' tools pass it."),
    ("allow-uprobes", "The kernel's area for uprobes is refused either way; remove the uprobes first."),
    ("log-pid", "Restored tasks log nothing by themselves: there is one log."),
    ("status-fd", "For starting criu-rs without --daemon and still learning when it is ready."),
    (
        "verbosity",
        "0: nothing; 1: errors; 2: and warnings; 3: and information; 4: and debug. -v may be repeated: each adds \
         one to the level of the weaker layers.",
    ),
    ("config", "The file must exist. In a configuration file the option has no effect."),
];
