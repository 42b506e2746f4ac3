//! `/proc/PID/status`, a line a field.

use super::lists::{parse_list, parse_number};
use crate::{ProcError, ProcResult};

const FILE: &str = "status";

/// The fields of `/proc/PID/status` that matter for a checkpoint (proc_pid_status(5)).
///
/// Lines that an older kernel does not write leave zero or an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Name, with line breaks and backslashes escaped.
    pub name: String,
    /// File mode creation mask (Linux 4.7); `None` for a zombie or kernel thread.
    pub umask: Option<u32>,
    /// State letter.
    pub state: char,
    /// Thread group id.
    pub tgid: i32,
    /// Thread id.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// Thread id of the tracer, 0 for none.
    pub tracer_pid: i32,
    /// Real, effective, saved, filesystem user id.
    pub uid: [u32; 4],
    /// Real, effective, saved, filesystem group id.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Thread group id in each pid namespace, the reader's first, the innermost last.
    pub ns_tgid: Vec<i32>,
    /// Thread id in each pid namespace.
    pub ns_pid: Vec<i32>,
    /// Process group id in each pid namespace.
    pub ns_pgid: Vec<i32>,
    /// Session id in each pid namespace.
    pub ns_sid: Vec<i32>,
    /// Whether it is a kernel thread (Linux 6.8).
    pub kernel_thread: bool,
    /// Number of threads.
    pub threads: u32,
    /// Pending for this thread: bit `n - 1` for signal `n`.
    pub sig_pending: u64,
    /// Pending for the process.
    pub shared_pending: u64,
    /// Blocked.
    pub sig_blocked: u64,
    /// Ignored.
    pub sig_ignored: u64,
    /// Caught.
    pub sig_caught: u64,
    /// Inheritable capabilities.
    pub cap_inheritable: u64,
    /// Permitted capabilities.
    pub cap_permitted: u64,
    /// Effective capabilities.
    pub cap_effective: u64,
    /// Bounding set.
    pub cap_bounding: u64,
    /// Ambient capabilities (Linux 4.3).
    pub cap_ambient: u64,
    /// `no_new_privs` (Linux 4.10).
    pub no_new_privs: bool,
    /// Seccomp mode: 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Number of seccomp filters (Linux 5.9).
    pub seccomp_filters: u32,
    /// Resident memory, in KiB; 0 for a zombie.
    pub vm_rss_kib: u64,
    /// Locked memory, in KiB.
    pub vm_locked_kib: u64,
}

impl Status {
    /// Parses the file.
    pub fn parse(text: &str) -> ProcResult<Self> {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            status.set(key, value.trim()).map_err(|field| ProcError::parse(FILE, field, line))?;
        }
        if status.pid == 0 {
            return Err(ProcError::parse(FILE, "Pid", text.lines().next().unwrap_or_default()));
        }
        Ok(status)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "Name" => value.clone_into(&mut self.name),
            "Umask" => {
                self.umask = Some(u32::from_str_radix(value, 8).map_err(|_| "Umask")?);
            }
            "State" => self.state = value.chars().next().ok_or("State")?,
            "Tgid" => self.tgid = number(value)?,
            "Pid" => self.pid = number(value)?,
            "PPid" => self.ppid = number(value)?,
            "TracerPid" => self.tracer_pid = number(value)?,
            "Uid" => self.uid = four(value)?,
            "Gid" => self.gid = four(value)?,
            "Groups" => self.groups = list(value)?,
            "NStgid" => self.ns_tgid = list(value)?,
            "NSpid" => self.ns_pid = list(value)?,
            "NSpgid" => self.ns_pgid = list(value)?,
            "NSsid" => self.ns_sid = list(value)?,
            "Kthread" => self.kernel_thread = number::<u32>(value)? != 0,
            "Threads" => self.threads = number(value)?,
            "SigPnd" => self.sig_pending = hex(value)?,
            "ShdPnd" => self.shared_pending = hex(value)?,
            "SigBlk" => self.sig_blocked = hex(value)?,
            "SigIgn" => self.sig_ignored = hex(value)?,
            "SigCgt" => self.sig_caught = hex(value)?,
            "CapInh" => self.cap_inheritable = hex(value)?,
            "CapPrm" => self.cap_permitted = hex(value)?,
            "CapEff" => self.cap_effective = hex(value)?,
            "CapBnd" => self.cap_bounding = hex(value)?,
            "CapAmb" => self.cap_ambient = hex(value)?,
            "NoNewPrivs" => self.no_new_privs = number::<u32>(value)? != 0,
            "Seccomp" => self.seccomp = number(value)?,
            "Seccomp_filters" => self.seccomp_filters = number(value)?,
            "VmRSS" => self.vm_rss_kib = number(value.trim_end_matches(" kB"))?,
            "VmLck" => self.vm_locked_kib = number(value.trim_end_matches(" kB"))?,
            _ => {}
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, &'static str> {
    parse_number(FILE, value).map_err(|_| "number")
}

fn list<T: std::str::FromStr>(value: &str) -> Result<Vec<T>, &'static str> {
    parse_list(FILE, value).map_err(|_| "list of numbers")
}

fn four(value: &str) -> Result<[u32; 4], &'static str> {
    list(value)?.try_into().map_err(|_| "four ids")
}

fn hex(value: &str) -> Result<u64, &'static str> {
    u64::from_str_radix(value, 16).map_err(|_| "hexadecimal mask")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "Name:\ta:b\nUmask:\t0027\nState:\tT (stopped)\nTgid:\t5\nPid:\t6\nPPid:\t1\n\
            TracerPid:\t3\nUid:\t0\t1\t2\t3\nGid:\t4\t5\t6\t7\nGroups:\t10 20 \nNSpid:\t6\t2\n\
            VmRSS:\t    1700 kB\nThreads:\t3\nSigBlk:\tfffffffc00000001\nCapEff:\t000001ffffffffff\n\
            NoNewPrivs:\t1\nSeccomp:\t2\nNew:\tunknown\n";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.name.as_str(), status.umask, status.state), ("a:b", Some(0o27), 'T'));
        assert_eq!((status.uid, status.gid), ([0, 1, 2, 3], [4, 5, 6, 7]));
        assert_eq!((status.groups, status.ns_pid), (vec![10, 20], vec![6, 2]));
        assert_eq!((status.sig_blocked, status.vm_rss_kib), (0xffff_fffc_0000_0001, 1700));
        assert!(status.no_new_privs && status.seccomp == 2 && status.tracer_pid == 3);
    }

    #[test]
    fn wrong_lines_are_named() {
        let error = Status::parse("Pid:\t1\nUid:\t1\t2\n").unwrap_err();
        assert_eq!(error.to_string(), r#"status: no valid four ids in "Uid:\t1\t2""#);
        assert!(Status::parse("").is_err());
    }
}
