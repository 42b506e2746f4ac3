//! `/proc/PID/mountinfo`, a line a mount.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::{ProcError, ProcResult};

const FILE: &str = "mountinfo";

/// One mount (proc_pid_mountinfo(5)); escaped bytes are given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountInfo {
    /// Mount id.
    pub id: i32,
    /// Parent's mount id.
    pub parent: i32,
    /// Device number, major and minor, of files on it.
    pub device: (u32, u32),
    /// Directory of the filesystem that is the root of the mount.
    pub root: PathBuf,
    /// Where it is mounted, from the process's root.
    pub mount_point: PathBuf,
    /// Options of the mount.
    pub options: String,
    /// Peer group (`shared:N`), 0 for none.
    pub shared: i32,
    /// Master group (`master:N`), 0 for none.
    pub master: i32,
    /// Nearest dominant peer group under the process's root (`propagate_from:N`), 0 for none.
    pub propagate_from: i32,
    /// `unbindable`
    pub unbindable: bool,
    /// Filesystem type, with a subtype after a dot.
    pub fs_type: String,
    /// Source, often a device.
    pub source: OsString,
    /// Options of the filesystem.
    pub super_options: String,
}

/// Parses the file.
pub fn parse_mountinfo(reader: impl BufRead) -> impl Iterator<Item = ProcResult<MountInfo>> {
    reader.split(b'\n').map(|line| {
        let line = line.map_err(|source| ProcError::Read { file: FILE, source })?;
        parse_line(&line).map_err(|field| ProcError::parse(FILE, field, &String::from_utf8_lossy(&line)))
    })
}

fn parse_line(line: &[u8]) -> Result<MountInfo, &'static str> {
    let mut words = line.split(|&b| b == b' ');
    let mut mount = MountInfo {
        id: number(words.next(), "mount id")?,
        parent: number(words.next(), "parent id")?,
        ..MountInfo::default()
    };
    let device = words.next().and_then(|word| std::str::from_utf8(word).ok());
    let device = device.and_then(|word| word.split_once(':')).ok_or("device")?;
    mount.device = (device.0.parse().map_err(|_| "device")?, device.1.parse().map_err(|_| "device")?);
    mount.root = unescape(words.next().ok_or("root")?).into();
    mount.mount_point = unescape(words.next().ok_or("mount point")?).into();
    mount.options = text(words.next().ok_or("options")?);
    loop {
        let word = words.next().ok_or("separator")?;
        let tag = |prefix: &[u8]| word.strip_prefix(prefix);
        if word == b"-" {
            break;
        } else if let Some(n) = tag(b"shared:") {
            mount.shared = number(Some(n), "shared")?;
        } else if let Some(n) = tag(b"master:") {
            mount.master = number(Some(n), "master")?;
        } else if let Some(n) = tag(b"propagate_from:") {
            mount.propagate_from = number(Some(n), "propagate_from")?;
        } else if word == b"unbindable" {
            mount.unbindable = true;
        }
    }
    mount.fs_type = text(words.next().ok_or("filesystem type")?);
    mount.source = unescape(words.next().ok_or("source")?);
    mount.super_options = text(words.next().ok_or("super options")?);
    Ok(mount)
}

fn number<T: std::str::FromStr>(word: Option<&[u8]>, field: &'static str) -> Result<T, &'static str> {
    std::str::from_utf8(word.ok_or(field)?).map_err(|_| field)?.parse().map_err(|_| field)
}

fn text(word: &[u8]) -> String {
    unescape(word).to_string_lossy().into_owned()
}

/// Gives back `\040` and the like.
fn unescape(word: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let digit = |b: &u8| matches!(b, b'0'..=b'7');
        match tail {
            [a, b, c, after @ ..] if *first == b'\\' && digit(a) && digit(b) && digit(c) => {
                let octal = |b: &u8| u32::from(b - b'0');
                out.push((octal(a) << 6 | octal(b) << 3 | octal(c)) as u8);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            1 0 0:2 / / rw unbindable propagate_from:3 new:1 - fuse.x a\\134b rw\n";
        let mounts: Vec<_> = parse_mountinfo(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            mounts[0],
            MountInfo {
                id: 36,
                parent: 35,
                device: (98, 0),
                root: "/mnt1".into(),
                mount_point: "/mnt 2".into(),
                options: "rw,noatime".into(),
                shared: 7,
                master: 1,
                fs_type: "ext3".into(),
                source: "/dev/root".into(),
                super_options: "rw,errors=continue".into(),
                ..MountInfo::default()
            }
        );
        assert!(mounts[1].unbindable && mounts[1].propagate_from == 3);
        assert_eq!(mounts[1].source, "a\\b");
    }

    #[test]
    fn wrong_lines() {
        for line in ["", "1 2 3 / / rw - a b c", "1 2 3:4 / / rw shared:1", "1 2 3:4 / / rw - a b"] {
            let text = format!("{line}\n");
            assert!(parse_mountinfo(text.as_bytes()).next().unwrap().is_err(), "{line}");
        }
    }
}
