//! How much memory a task's copy may take before the task's control groups or the machine run out of it.
//!
//! Pages that the task writes while a copy of its memory exists are duplicated, at the task's expense.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that task `pid` may still take: what the machine has available, or less where the limit of one of its
/// control groups, of either version, is nearer.
///
/// # Errors
/// Those of reading procfs. A group's files that cannot be read set no limit: the root group has none.
pub fn headroom(pid: i32) -> std::io::Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let limits = groups.lines().filter_map(|line| place(line, &mounts)).filter_map(|place| place.least());
    Ok(limits.chain(available.map(|kib| kib << 10)).min().unwrap_or(u64::MAX))
}

/// A control group that accounts for memory.
struct Place {
    mount: PathBuf,
    /// Below the mount.
    group: PathBuf,
    limit: &'static str,
    used: &'static str,
}

/// Finds the group that a line of `/proc/PID/cgroup` names (cgroups(7)), among the mounts.
fn place(line: &str, mounts: &str) -> Option<Place> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let (kind, limit, used) = match controllers {
        "" => ("cgroup2", "memory.max", "memory.current"),
        names if names.split(',').any(|name| name == "memory") => {
            ("cgroup", "memory.limit_in_bytes", "memory.usage_in_bytes")
        }
        _ => return None,
    };
    let mount = mounts.lines().find_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let found = file_system.next()? == kind
            && (kind == "cgroup2" || file_system.nth(1)?.split(',').any(|option| option == "memory"));
        let mut place = place.split(' ').skip(3);
        found.then_some((place.next()?, place.next()?))
    });
    let (root, mount) = mount?;
    let group = Path::new(group).strip_prefix(root).ok()?.to_owned();
    Some(Place { mount: mount.into(), group, limit, used })
}

impl Place {
    /// What the group, and each above it, has left: the least of all.
    fn least(&self) -> Option<u64> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let left = |group: &Path| {
            let folder = self.mount.join(group);
            Some(number(&folder.join(self.limit))?.saturating_sub(number(&folder.join(self.used))?))
        };
        self.group.ancestors().filter_map(left).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("a/memory.max", "1000\n");
        put("a/memory.current", "300\n");
        put("a/b/memory.max", "max\n");
        put("a/b/memory.current", "200\n");
        let mounts = format!("30 23 0:27 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        assert_eq!(place("0::/a/b", &mounts).unwrap().least(), Some(700));
        put("a/b/memory.max", "250\n");
        assert_eq!(place("0::/a/b", &mounts).unwrap().least(), Some(50));
        assert_eq!(place("0::/", &mounts).unwrap().least(), None);
        assert!(place("3:cpu,cpuacct:/a", &mounts).is_none());
    }

    #[test]
    fn version_one() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:29 /docker /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let place = place("5:memory:/docker/x", mounts).unwrap();
        assert_eq!(
            (place.mount.as_path(), place.group.as_path()),
            (Path::new("/sys/fs/cgroup/memory"), Path::new("x"))
        );
        assert_eq!(place.limit, "memory.limit_in_bytes");
    }

    #[test]
    fn this_process_has_some() {
        assert!(headroom(std::process::id() as i32).unwrap() > 0);
    }
}
