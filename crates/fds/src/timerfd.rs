//! Timers read from a descriptor: timerfd_create(2).

use crate::alone::Alone;
use crate::{fown, observed};
use criu_images::proto;
use criu_resource::{Descriptor, Dump, Restore};
use criu_script::Script;
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const SECOND: u64 = 1_000_000_000;
const ABSTIME: u32 = libc::TFD_TIMER_ABSTIME as u32;
/// `TFD_IOC_SET_TICKS`: expirations not yet read (Linux 3.17, `CONFIG_CHECKPOINT_RESTORE`).
const SET_TICKS: u64 = 0x4008_5400;

/// A timerfd: clock, time left, interval, expirations not yet read.
#[derive(Debug)]
pub struct Timerfd;

/// What can go wrong with a timerfd.
#[derive(Debug, thiserror::Error)]
pub enum TimerfdError {
    /// fdinfo lacks something.
    #[error("fdinfo has no valid {0:?} line")]
    Field(&'static str),
    /// A system call failed on restore.
    #[error("{call} for clock {clock}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// The timer's clock.
        clock: u32,
        /// Why.
        errno: Errno,
    },
}

impl Dump for Timerfd {
    type Source<'a> = &'a Descriptor<'a>;
    type Entry = proto::TimerfdEntry;
    type Error = TimerfdError;

    fn dump(source: &Descriptor<'_>) -> Result<Self::Entry, TimerfdError> {
        let text = |key| observed::line(source.extra, key).ok_or(TimerfdError::Field(key));
        let number = |key| text(key)?.parse().map_err(|_| TimerfdError::Field(key));
        let pair = |key| {
            let inner = text(key)?.trim_matches(['(', ')']);
            let (sec, nsec) = inner.split_once(", ").ok_or(TimerfdError::Field(key))?;
            Ok((
                sec.parse().map_err(|_| TimerfdError::Field(key))?,
                nsec.parse().map_err(|_| TimerfdError::Field(key))?,
            ))
        };
        let settime_flags = u32::from_str_radix(text("settime flags")?, 8)
            .map_err(|_| TimerfdError::Field("settime flags"))?;
        let (vsec, vnsec) = pair("it_value")?;
        let (isec, insec) = pair("it_interval")?;
        Ok(proto::TimerfdEntry {
            id: source.id,
            flags: source.flags,
            fown: source.fown,
            clockid: number("clockid")? as u32,
            ticks: number("ticks")?,
            settime_flags,
            vsec,
            vnsec,
            isec,
            insec,
        })
    }
}

/// `struct itimerspec`: interval, value. The value counts from now; an absolute one is moved there.
fn spec(entry: &proto::TimerfdEntry) -> Result<[u64; 4], TimerfdError> {
    let (mut sec, mut nsec) = (entry.vsec, entry.vnsec);
    if entry.settime_flags & ABSTIME != 0 && (sec, nsec) != (0, 0) {
        let now = clock_gettime(ClockId::from_raw(entry.clockid as i32))
            .map_err(|errno| TimerfdError::Call { call: "clock_gettime", clock: entry.clockid, errno })?;
        nsec += now.tv_nsec() as u64;
        sec += now.tv_sec() as u64 + nsec / SECOND;
        nsec %= SECOND;
    }
    Ok([entry.isec, entry.insec, sec, nsec])
}

impl Restore for Timerfd {
    type Entry = proto::TimerfdEntry;
    type Context<'a> = ();
    type Object = OwnedFd;
    type Error = TimerfdError;

    fn restore(entry: &Self::Entry, (): ()) -> Result<OwnedFd, TimerfdError> {
        let call = |call| move |errno| TimerfdError::Call { call, clock: entry.clockid, errno };
        // SAFETY: two integers; the descriptor that comes back belongs to nobody else.
        let fd = unsafe {
            let fd = libc::timerfd_create(entry.clockid as i32, libc::TFD_CLOEXEC);
            OwnedFd::from_raw_fd(Errno::result(fd).map_err(call("timerfd_create"))?)
        };
        let spec = spec(entry)?;
        let flags = entry.settime_flags as i32;
        // SAFETY: four words are a `struct itimerspec` on 64-bit machines; the kernel reads them.
        let set = unsafe {
            libc::timerfd_settime(fd.as_raw_fd(), flags, spec.as_ptr().cast(), std::ptr::null_mut())
        };
        Errno::result(set).map_err(call("timerfd_settime"))?;
        if entry.ticks != 0 {
            // SAFETY: the kernel reads one word.
            let set = unsafe { libc::ioctl(fd.as_raw_fd(), SET_TICKS, &raw const entry.ticks) };
            Errno::result(set).map_err(call("ioctl(TFD_IOC_SET_TICKS)"))?;
        }
        fown::prepare(fd.as_fd(), &entry.fown, entry.flags).map_err(call("fcntl"))?;
        Ok(fd)
    }
}

impl Alone for Timerfd {
    const NAME: &'static str = "timerfd";
    const TYPE: proto::FdTypes = proto::FdTypes::Timerfd;

    fn claims(descriptor: &Descriptor<'_>) -> bool {
        descriptor.link == Path::new("anon_inode:[timerfd]")
    }

    fn wrap(entry: proto::TimerfdEntry, file: &mut proto::FileEntry) {
        file.tfd = Some(entry);
    }

    fn unwrap(file: &proto::FileEntry) -> Option<&proto::TimerfdEntry> {
        file.tfd.as_ref()
    }

    /// Winds the timer up once more: the time left counts from when the task is nearly complete.
    fn steps(entry: &proto::TimerfdEntry, number: i32, script: &mut Script) {
        let Ok(spec) = spec(entry) else { return };
        let spec = script.words(&spec);
        let args = [number.into(), entry.settime_flags.into(), spec.into(), 0.into()];
        script.syscall(libc::SYS_timerfd_settime, args);
        if entry.ticks != 0 {
            let ticks = script.words(&[entry.ticks]);
            script.syscall(libc::SYS_ioctl, [number.into(), SET_TICKS.into(), ticks.into()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Observed;

    fn look(fd: &OwnedFd) -> proto::TimerfdEntry {
        let seen = Observed::own(fd.as_fd()).unwrap();
        let descriptor = seen.view(fd.as_fd(), 2);
        assert!(Timerfd::claims(&descriptor));
        Timerfd::dump(&descriptor).unwrap()
    }

    fn entry(clock: i32, settime_flags: u32, value: u64, interval: u64, ticks: u64) -> proto::TimerfdEntry {
        proto::TimerfdEntry {
            id: 2,
            flags: (libc::O_RDWR | libc::O_NONBLOCK) as u32,
            fown: fown::none(),
            clockid: clock as u32,
            ticks,
            settime_flags,
            vsec: value,
            vnsec: 0,
            isec: interval,
            insec: 5,
        }
    }

    #[test]
    fn clocks_intervals_and_unread_ticks() {
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
            for flags in [0, ABSTIME] {
                let wanted = entry(clock, flags, 100, 7, 3);
                let found = look(&Timerfd::restore(&wanted, ()).unwrap());
                assert!((99..=100).contains(&found.vsec), "{found:?}");
                assert_eq!(proto::TimerfdEntry { vsec: 100, vnsec: 0, ..found }, wanted);
            }
        }
    }

    #[test]
    fn expired_and_cancelled_on_set() {
        let expired = entry(libc::CLOCK_MONOTONIC, 0, 0, 0, 1);
        assert_eq!(
            look(&Timerfd::restore(&expired, ()).unwrap()),
            proto::TimerfdEntry { insec: 5, ..expired }
        );
        let flags = ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET as u32;
        let found = look(&Timerfd::restore(&entry(libc::CLOCK_REALTIME, flags, 50, 0, 0), ()).unwrap());
        assert_eq!(found.settime_flags, flags);
    }

    #[test]
    fn broken_fdinfo() {
        let fd = Timerfd::restore(&entry(libc::CLOCK_MONOTONIC, 0, 9, 0, 0), ()).unwrap();
        let mut seen = Observed::own(fd.as_fd()).unwrap();
        seen.extra = seen.extra.replace("it_value", "value");
        let error = Timerfd::dump(&seen.view(fd.as_fd(), 1)).unwrap_err();
        assert_eq!(error.to_string(), "fdinfo has no valid \"it_value\" line");
    }
}
