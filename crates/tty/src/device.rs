//! Which terminal a device number stands for, and the ids that terminals have in the images.

use crate::TtyError;
use criu_images::proto::{TtyInfoEntry, TtyType};
use nix::sys::stat::{major, minor};
use std::collections::HashMap;

/// A terminal device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `/dev/ptmx`: the master of some pty.
    Master,
    /// `/dev/pts/N`.
    Slave(u32),
    /// `/dev/tty`: the controlling terminal of whoever opened it.
    Controlling,
    /// `/dev/console`.
    Console,
    /// `/dev/tty1` to `/dev/tty63`.
    Virtual,
    /// A serial line.
    Serial,
}

impl Device {
    /// Classifies a device number, as `st_rdev` has it.
    pub fn of(rdev: u64) -> Option<Device> {
        Some(match (major(rdev), minor(rdev)) {
            (5, 0) => Device::Controlling,
            (5, 1) => Device::Console,
            (5, 2) | (128..=135, _) => Device::Master,
            (136, index) => Device::Slave(index as u32),
            (4, 1..=63) => Device::Virtual,
            (4, 64..) | (188 | 204, _) => Device::Serial,
            _ => return None,
        })
    }

    /// The type in the images.
    pub fn image_type(self) -> TtyType {
        match self {
            Device::Master | Device::Slave(_) => TtyType::Pty,
            Device::Controlling => TtyType::Ctty,
            Device::Console => TtyType::Console,
            Device::Virtual => TtyType::Vt,
            Device::Serial => TtyType::Serial,
        }
    }
}

/// The device of the terminal behind `/dev/pts/N`, as procfs has it in `tty_nr`.
pub(crate) fn slave_number(index: u32) -> u32 {
    nix::sys::stat::makedev(136, index.into()) as u32
}

/// A name for messages.
pub(crate) fn name(number: u32) -> String {
    match Device::of(number.into()) {
        Some(Device::Slave(index)) => format!("/dev/pts/{index}"),
        Some(Device::Virtual) => format!("/dev/tty{}", minor(number.into())),
        Some(Device::Console) => "/dev/console".into(),
        _ => format!("{}:{}", major(number.into()), minor(number.into())),
    }
}

/// How `--external` and `--inherit-fd` name a terminal: its own device and that of the file system its
/// inode lies on.
pub fn key(rdev: u64, dev: u64) -> String {
    format!("tty[{rdev:x}:{dev:x}]")
}

/// The same for an entry of the images.
pub(crate) fn key_of(info: &TtyInfoEntry) -> String {
    key(info.rdev.into(), info.dev.unwrap_or(0).into())
}

/// What has an entry of its own in `tty-info.img`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// One end of a pty.
    Pty { index: u32, master: bool },
    /// A device with a node of its own.
    Node { rdev: u64 },
    /// `/dev/tty` as it was opened in the session of a terminal.
    Controlling { number: u32 },
    /// Provided from outside.
    External { key: String },
}

/// The largest pty number in the images.
const MAX_INDEX: u32 = 1000;
/// Ids of terminals that are no ptys, and of further ones; those of ptys are twice their number, plus one
/// for a master.
const CONSOLE: u32 = 1002 << 1;
const VIRTUAL: u32 = 1004 << 1;
const CONTROLLING: u32 = 1006 << 1;
const SERIAL: u32 = 1010 << 1;
const EXTERNAL: std::ops::RangeInclusive<u32> = 1013..=1076;
const FURTHER: std::ops::RangeInclusive<u32> = 1077..=1087;

/// Hands out ids for `tty-info.img`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    known: HashMap<Identity, u32>,
    taken: std::collections::HashSet<u32>,
}

impl Ids {
    /// The id, and whether it is new.
    pub fn id(&mut self, identity: Identity) -> Result<(u32, bool), TtyError> {
        if let Some(&id) = self.known.get(&identity) {
            return Ok((id, false));
        }
        let doubled = |range: std::ops::RangeInclusive<u32>| range.map(|index| index << 1);
        let preferred: Vec<u32> = match &identity {
            Identity::Pty { index, .. } if *index > MAX_INDEX => {
                return Err(TtyError::Index { index: *index, most: MAX_INDEX });
            }
            Identity::Pty { index, master } => vec![index << 1 | u32::from(*master)],
            Identity::Controlling { .. } => vec![CONTROLLING],
            Identity::External { .. } => doubled(EXTERNAL).collect(),
            Identity::Node { rdev } => vec![match Device::of(*rdev) {
                Some(Device::Console) => CONSOLE,
                Some(Device::Virtual) => VIRTUAL,
                _ => SERIAL,
            }],
        };
        let id = preferred.into_iter().chain(doubled(FURTHER)).find(|&id| self.taken.insert(id));
        let id = id.ok_or(TtyError::Ids)?;
        self.known.insert(identity, id);
        Ok((id, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::makedev;

    #[test]
    fn devices() {
        assert_eq!(Device::of(makedev(136, 300)), Some(Device::Slave(300)));
        assert_eq!(Device::of(makedev(5, 2)), Some(Device::Master));
        assert_eq!(Device::of(makedev(4, 7)), Some(Device::Virtual));
        assert_eq!(Device::of(makedev(4, 64)), Some(Device::Serial));
        assert_eq!(Device::of(makedev(1, 3)), None, "/dev/null");
        assert_eq!(name(slave_number(300)), "/dev/pts/300");
        assert_eq!(key(makedev(136, 3), 0x19), "tty[8803:19]");
    }

    #[test]
    fn ids_are_those_of_the_format() {
        let mut ids = Ids::default();
        let mut id = |identity| ids.id(identity).unwrap();
        assert_eq!(id(Identity::Pty { index: 7, master: true }), (15, true));
        assert_eq!(id(Identity::Pty { index: 7, master: false }), (14, true));
        assert_eq!(id(Identity::Pty { index: 7, master: true }), (15, false));
        assert_eq!(id(Identity::Controlling { number: 1 }), (2012, true));
        assert_eq!(id(Identity::Controlling { number: 2 }), (2154, true), "another session's");
        assert_eq!(id(Identity::External { key: "a".into() }), (2026, true));
        assert!(ids.id(Identity::Pty { index: 1001, master: false }).is_err());
    }
}
