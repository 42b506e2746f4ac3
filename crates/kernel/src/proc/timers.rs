//! `/proc/PID/timers`: the POSIX timers of a process (Linux 3.10, `CONFIG_CHECKPOINT_RESTORE`).

use crate::{ProcError, ProcResult};

const FILE: &str = "timers";

/// One POSIX timer; its times are known to the process only (`timer_gettime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerInfo {
    /// The kernel's timer id.
    pub id: i32,
    /// Signal number.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// How it tells.
    pub notify: TimerNotify,
    /// For which thread; otherwise the process (`notify: signal/pid.4242`).
    pub thread: bool,
    /// That thread's, or the process's, id.
    pub target: i32,
    /// Clock (`CLOCK_*`); negative for a CPU clock.
    pub clock: i32,
}

/// How a timer tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimerNotify {
    /// `SIGEV_SIGNAL`
    #[default]
    Signal,
    /// `SIGEV_NONE`
    None,
    /// `SIGEV_THREAD`
    Thread,
}

impl TimerInfo {
    /// `sigev_notify`: `SIGEV_SIGNAL`, `SIGEV_NONE` or `SIGEV_THREAD`, with `SIGEV_THREAD_ID`.
    pub fn sigev_notify(&self) -> i32 {
        let notify = match self.notify {
            TimerNotify::Signal => libc::SIGEV_SIGNAL,
            TimerNotify::None => libc::SIGEV_NONE,
            TimerNotify::Thread => libc::SIGEV_THREAD,
        };
        notify | if self.thread { libc::SIGEV_THREAD_ID } else { 0 }
    }
}

/// Parses the file: four lines a timer.
pub fn parse_timers(text: &str) -> ProcResult<Vec<TimerInfo>> {
    let mut timers = Vec::new();
    for line in text.lines() {
        let wrong = |field| ProcError::parse(FILE, field, line);
        let (key, value) = line.split_once(':').ok_or_else(|| wrong("key"))?;
        let value = value.trim();
        if key == "ID" {
            let id = value.parse().map_err(|_| wrong("ID"))?;
            timers.push(TimerInfo { id, ..TimerInfo::default() });
        }
        let timer = timers.last_mut().ok_or_else(|| wrong("ID"))?;
        match key {
            "signal" => {
                let (signal, address) = value.split_once('/').ok_or_else(|| wrong("signal"))?;
                timer.signal = signal.parse().map_err(|_| wrong("signal"))?;
                timer.value = parse_pointer(address).ok_or_else(|| wrong("signal"))?;
            }
            "notify" => set_notify(timer, value).ok_or_else(|| wrong("notify"))?,
            "ClockID" => timer.clock = value.parse().map_err(|_| wrong("ClockID"))?,
            _ => {}
        }
    }
    Ok(timers)
}

/// The kernel's `%px`; a null pointer may come as `(null)`.
fn parse_pointer(text: &str) -> Option<u64> {
    match text.trim_start_matches("0x") {
        "(null)" => Some(0),
        digits => u64::from_str_radix(digits, 16).ok(),
    }
}

fn set_notify(timer: &mut TimerInfo, value: &str) -> Option<()> {
    let (how, who) = value.split_once('/')?;
    timer.notify = match how {
        "signal" => TimerNotify::Signal,
        "none" => TimerNotify::None,
        "thread" => TimerNotify::Thread,
        _ => return None,
    };
    let (kind, id) = who.split_once('.')?;
    timer.thread = kind == "tid";
    timer.target = id.parse().ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "ID: 0\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
            ID: 5\nsignal: 14/0000000000000000\nnotify: none/tid.7\nClockID: -6\n";
        let timers = parse_timers(text).unwrap();
        assert_eq!(timers.len(), 2);
        assert_eq!(timers[0].value, 0x7fff_86e4_52a8);
        assert_eq!(timers[0].sigev_notify(), libc::SIGEV_SIGNAL);
        assert_eq!((timers[1].id, timers[1].clock, timers[1].target), (5, -6, 7));
        assert_eq!(timers[1].sigev_notify(), libc::SIGEV_NONE | libc::SIGEV_THREAD_ID);
        assert!(parse_timers("").unwrap().is_empty());
        assert!(parse_timers("signal: 1/0\n").is_err());
        assert!(parse_timers("ID: 1\nnotify: x/pid.1\n").is_err());
    }
}
