//! `/proc/PID/fdinfo/FD`: position and flags, then lines that depend on the kind of descriptor.

use std::str::FromStr;

use super::lists::parse_number;
use crate::{ProcError, ProcResult};

const FILE: &str = "fdinfo";

/// What `/proc/PID/fdinfo/FD` tells (proc_pid_fdinfo(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File position.
    pub pos: u64,
    /// Access mode and status flags (`O_*`), with `O_CLOEXEC` where close-on-exec is set.
    pub flags: i32,
    /// Mount id, as in `mountinfo`.
    pub mnt_id: i32,
    /// Inode number (Linux 5.14); 0 before.
    pub inode: u64,
    /// All other lines in order: the word before the first colon, and the rest.
    /// Lock lines have the key `lock`, eventfd has `eventfd-count` (hexadecimal), signalfd
    /// `sigmask` (hexadecimal), epoll one `tfd` a target, inotify one `inotify wd` a watch.
    pub lines: Vec<(String, String)>,
}

impl FdInfo {
    /// Parses the file.
    pub fn parse(text: &str) -> ProcResult<Self> {
        let mut info = Self::default();
        let mut seen_flags = false;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let (key, value) = (key.trim(), value.trim());
            match key {
                "pos" => info.pos = parse_number(FILE, value)?,
                "flags" => {
                    let wrong = |_| ProcError::parse(FILE, "flags", line);
                    info.flags = u32::from_str_radix(value, 8).map_err(wrong)? as i32;
                    seen_flags = true;
                }
                "mnt_id" => info.mnt_id = parse_number(FILE, value)?,
                "ino" => info.inode = parse_number(FILE, value)?,
                _ => info.lines.push((key.to_owned(), value.to_owned())),
            }
        }
        if seen_flags { Ok(info) } else { Err(ProcError::parse(FILE, "flags", text)) }
    }

    /// The first line of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All lines of this key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The first line of this key, as a decimal number; an error names the key.
    pub fn number<T: FromStr>(&self, key: &'static str) -> ProcResult<T> {
        let value = self.get(key).unwrap_or_default();
        value.parse().map_err(|_| ProcError::parse(FILE, key, value))
    }

    /// The first line of this key, as a hexadecimal number; an error names the key.
    pub fn hex(&self, key: &'static str) -> ProcResult<u64> {
        let value = self.get(key).unwrap_or_default();
        u64::from_str_radix(value, 16).map_err(|_| ProcError::parse(FILE, key, value))
    }

    /// The file locks: the text after `lock:`, for example
    /// `1: POSIX  ADVISORY  WRITE 4242 fe:00:1234 0 EOF`.
    pub fn locks(&self) -> impl Iterator<Item = &str> {
        self.all("lock")
    }
}

/// Splits a line of many fields, such as epoll's `5 events:       19 data:  7  pos:0 ino:9`:
/// key and value, joined or with spaces between. A first word without a key is passed over.
pub fn parse_pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut words = line.split_ascii_whitespace();
    std::iter::from_fn(move || {
        loop {
            match words.next()?.split_once(':') {
                Some((key, "")) => return Some((key, words.next()?)),
                Some(pair) => return Some(pair),
                None => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "pos:\t5\nflags:\t02100001\nmnt_id:\t24\nino:\t3\n\
            lock:\t1: POSIX  ADVISORY  WRITE 42 fe:00:12 0 EOF\nlock:\t2: FLOCK\n\
            eventfd-count:               1f\ntfd:        5 events:       19 data:  5 pos:0\n";
        let info = FdInfo::parse(text).unwrap();
        assert_eq!((info.pos, info.mnt_id, info.inode), (5, 24, 3));
        assert_eq!(info.flags, libc::O_CLOEXEC | libc::O_LARGEFILE | 0o100_000 | libc::O_WRONLY);
        assert_eq!(info.locks().count(), 2);
        assert_eq!(info.get("lock"), Some("1: POSIX  ADVISORY  WRITE 42 fe:00:12 0 EOF"));
        assert_eq!(info.hex("eventfd-count").unwrap(), 0x1f);
        assert!(info.number::<u64>("eventfd-count").is_err());
        assert_eq!(info.get("tfd"), Some("5 events:       19 data:  5 pos:0"));
        let error = info.number::<u64>("sigmask").unwrap_err();
        assert_eq!(error.to_string(), r#"fdinfo: no valid sigmask in """#);
    }

    #[test]
    fn pairs() {
        let found: Vec<_> = parse_pairs("5 events:       19 data:  7  pos:0 ino:9").collect();
        assert_eq!(found, [("events", "19"), ("data", "7"), ("pos", "0"), ("ino", "9")]);
        assert_eq!(parse_pairs("x y: ").count(), 0);
    }

    #[test]
    fn not_fdinfo() {
        assert!(FdInfo::parse("").is_err());
        assert!(FdInfo::parse("pos:\t0\nflags:\t9\n").is_err());
        assert!(FdInfo::parse("pos:\tx\nflags:\t0\n").is_err());
    }
}
