//! Types of option values that are more than a flag, a number or a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `--network-lock`: how established TCP connections are kept silent between dump and restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkLock {
    /// nftables where the kernel has it, else iptables.
    #[default]
    Auto,
    /// Rules of iptables.
    Iptables,
    /// Rules of nftables.
    Nftables,
    /// Nothing; somebody else silences the network.
    Skip,
}

/// `--manage-cgroups`: what restore does about control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupMode {
    /// Pretend there are none.
    Ignore,
    /// Groups must exist; properties stay as they are.
    None,
    /// Groups must exist; properties are restored.
    Props,
    /// Properties are restored in groups that restore created.
    #[default]
    Soft,
    /// Groups and properties are always restored.
    Full,
    /// As `Full`, and no group may exist before.
    Strict,
}

/// `--pre-dump-mode`: how a pre-dump reads memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreDumpMode {
    /// From inside the task, into pipes.
    #[default]
    Splice,
    /// From outside, with process_vm_readv(2).
    Read,
}

/// `--file-validation`: how restore tells that a file changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileValidation {
    /// Compare the build id of ELF files, the size of others.
    #[default]
    Buildid,
    /// Compare sizes.
    Filesize,
}

/// `--log-format`: the form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines as the field writes them.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `--empty-ns`: a namespace to create and leave empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyNs {
    /// The network namespace.
    Net,
}

/// `--inherit-fd fd[N]:KEY`: descriptor N of criu-rs stands for the resource KEY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InheritFd {
    /// The descriptor in criu-rs.
    pub fd: i32,
    /// What it replaces, such as `pipe[1234]` or a path without its leading slash.
    pub key: String,
}

impl InheritFd {
    /// Takes `fd[N]:KEY` apart.
    pub fn parse(text: &str) -> Option<Self> {
        let (fd, key) = text.strip_prefix("fd[")?.split_once("]:")?;
        let fd = fd.parse().ok().filter(|fd| *fd >= 0)?;
        (!key.is_empty()).then(|| InheritFd { fd, key: key.into() })
    }
}

/// `--cpu-cap`: CPU features that dump records and restore demands. The bits are those of the RPC field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCap(u32);

const WORDS: [(&str, u32); 4] = [("fpu", 1), ("cpu", 2), ("ins", 4), ("image", 8)];

impl CpuCap {
    /// Nothing is checked.
    pub const NONE: CpuCap = CpuCap(0);
    /// What holds when the option is absent: FPU and instructions.
    pub const DEFAULT: CpuCap = CpuCap(1 | 4);
    const ALL: u32 = 1 | 2 | 4;
    const IMAGE: u32 = 8;

    /// The FPU must be compatible.
    pub fn fpu(self) -> bool {
        self.0 & 1 != 0
    }

    /// The CPU must match exactly.
    pub fn cpu(self) -> bool {
        self.0 & 2 != 0
    }

    /// All instructions must be there.
    pub fn ins(self) -> bool {
        self.0 & 4 != 0
    }

    /// Dump writes the features into an image, restore reads them. On whenever the option is set, save to `none`.
    pub fn image(self) -> bool {
        self.0 & Self::IMAGE != 0
    }

    /// From the bits of the RPC field.
    pub fn from_bits(bits: u32) -> Self {
        CpuCap(bits & Self::ALL | Self::IMAGE)
    }

    /// Adds, and after `^` takes away, the capabilities in a list such as `cpu,^ins`.
    ///
    /// # Errors
    /// Names the first unknown word.
    pub fn apply(self, list: &str) -> Result<Self, String> {
        let mut bits = self.0;
        for entry in list.split(',').filter(|entry| !entry.is_empty()) {
            let word = entry.trim_start_matches('^');
            let inverse = (entry.len() - word.len()) % 2 == 1;
            let mask = match WORDS.iter().find(|(name, _)| *name == word) {
                Some((_, mask)) => *mask,
                None if word == "all" => Self::ALL,
                None if word == "none" => {
                    bits = if inverse { Self::ALL } else { 0 };
                    continue;
                }
                None => return Err(format!("«{word}» is not one of: cpu, fpu, ins, all, none")),
            };
            bits = if inverse { bits & !mask } else { bits | mask };
        }
        Ok(CpuCap(if bits == 0 { 0 } else { bits | Self::IMAGE }))
    }
}

impl Default for CpuCap {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for CpuCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            WORDS.iter().filter(|(_, mask)| self.0 & mask != 0).map(|(name, _)| *name).collect();
        f.write_str(if words.is_empty() { "none".into() } else { words.join(",") }.as_str())
    }
}

impl FromStr for CpuCap {
    type Err = String;

    /// Reads what [`Display`](fmt::Display) writes: only the capabilities that are named.
    fn from_str(text: &str) -> Result<Self, String> {
        let image = text.split(',').any(|word| word == "image");
        let CpuCap(bits) = CpuCap::NONE.apply(text)?;
        Ok(CpuCap(if image { bits } else { bits & !Self::IMAGE }))
    }
}

impl Serialize for CpuCap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuCap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_capabilities_add_up_and_negate() {
        for (list, expected) in [
            ("cpu", "fpu,cpu,ins,image"),
            ("^ins", "fpu,image"),
            ("^^ins", "fpu,ins,image"),
            ("none", "none"),
            ("^none", "fpu,cpu,ins,image"),
            ("none,cpu", "cpu,image"),
            ("all,^fpu", "cpu,ins,image"),
            ("", "fpu,ins,image"),
        ] {
            assert_eq!(CpuCap::DEFAULT.apply(list).unwrap().to_string(), expected, "{list}");
        }
        assert!(CpuCap::DEFAULT.apply("gpu").unwrap_err().contains("«gpu»"));
    }

    #[test]
    fn cpu_capabilities_read_back_as_written() {
        for bits in 0..16 {
            let caps = CpuCap(bits);
            assert_eq!(caps.to_string().parse::<CpuCap>(), Ok(caps));
        }
        assert_eq!(CpuCap::from_bits(u32::MAX), CpuCap(15));
    }

    #[test]
    fn inherited_descriptors() {
        let fd = InheritFd::parse("fd[12]:file[1:2]").unwrap();
        assert_eq!((fd.fd, fd.key.as_str()), (12, "file[1:2]"));
        for wrong in ["", "fd[1]", "fd[1]:", "fd[-1]:a", "fd[x]:a", "12:a"] {
            assert_eq!(InheritFd::parse(wrong), None, "{wrong}");
        }
    }
}
