//! Credentials of a thread: user and group ids, capabilities, secure bits, no_new_privs (credentials(7),
//! capabilities(7)).
//!
//! Only differences to criu-rs's own credentials, which the thread starts with, are set.
//!
//! The kernel resets the dumpable flag of the whole process whenever a thread changes its ids. So all threads
//! but the main one give their rights away at the end of [`Stage::State`]; the main one does so in
//! [`Stage::Last`], and then sets that flag.

use crate::error::Error;
use crate::steps::{living, prctl, thread_dir};
use crate::{lsm, restorer};
use criu_images::proto::{CredsEntry, MmEntry};
use criu_images::{Image, StoreExt};
use criu_kernel::proc::Status;
use criu_resource::{
    Answer, BoxError, BuiltTask, DumpContext, FrozenTask, FrozenThread, RestoreContext, Stage, TaskState,
    ThreadAnswer, ThreadState,
};
use criu_script::{Arg, Check, Script};

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// Strict seccomp mode, which stands next to the credentials in `/proc`. Filters are the concern of
/// [`crate::seccomp`].
const STRICT: u32 = libc::SECCOMP_MODE_STRICT;
/// Asks setfsuid(2) and setfsgid(2) for the current id.
const NO_ID: u32 = u32::MAX;

/// The credentials of a thread from its `/proc/PID/task/TID/status` and its secure bits, which are not there.
pub fn from_status(status: &Status, secbits: u32) -> CredsEntry {
    let [uid, euid, suid, fsuid] = status.uid;
    let [gid, egid, sgid, fsgid] = status.gid;
    let words = |mask: u64| vec![mask as u32, (mask >> 32) as u32];
    CredsEntry {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: words(status.cap_inheritable),
        cap_prm: words(status.cap_permitted),
        cap_eff: words(status.cap_effective),
        cap_bnd: words(status.cap_bounding),
        cap_amb: words(status.cap_ambient),
        secbits,
        groups: status.groups.clone(),
        no_new_privs: status.no_new_privs.then_some(1),
        ..Default::default()
    }
}

fn mask(words: &[u32]) -> u64 {
    let word = |i: usize| words.get(i).map_or(0, |&word| u64::from(word));
    word(0) | word(1) << 32
}

/// Adds the steps that turn the credentials `own` of the calling thread, which is privileged, into `wanted`.
///
/// # Errors
/// When `wanted` has capabilities that `own` lacks.
pub fn set(wanted: &CredsEntry, own: &Status, script: &mut Script) -> Result<(), Error> {
    let [inh, prm, eff, bnd, amb] =
        [&wanted.cap_inh, &wanted.cap_prm, &wanted.cap_eff, &wanted.cap_bnd, &wanted.cap_amb]
            .map(|words| mask(words));
    let lacking = prm & !own.cap_permitted;
    if lacking != 0 {
        return Err(Error::Capabilities { names: names(lacking) });
    }
    if bnd & !own.cap_bounding != 0 {
        tracing::warn!("bounding set: {} cannot be given", names(bnd & !own.cap_bounding));
    }

    let uids = [wanted.uid, wanted.euid, wanted.suid, wanted.fsuid];
    let gids = [wanted.gid, wanted.egid, wanted.sgid, wanted.fsgid];
    let ids_differ = uids != own.uid || gids != own.gid;
    if ids_differ {
        // Without it the capabilities would go with user id 0.
        prctl(script, libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0);
    }
    let [own_eff, own_prm] = [own.cap_effective, own.cap_permitted];
    if inh != own.cap_inheritable || amb != own.cap_ambient {
        // What is inheritable may lie outside of the bounding set only if it was so before; what is ambient
        // must be inheritable and permitted.
        capset(script, [own_eff, own_prm, inh]);
    }
    for cap in bits(own.cap_bounding & !bnd) {
        prctl(script, libc::PR_CAPBSET_DROP, cap, 0);
    }
    if wanted.groups != own.groups {
        let bytes: Vec<u8> = wanted.groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
        let groups = script.bytes(&bytes);
        script.syscall(libc::SYS_setgroups, [wanted.groups.len().into(), groups.into()]);
    }
    if ids_differ {
        set_ids(script, libc::SYS_setresgid, libc::SYS_setfsgid, gids);
        set_ids(script, libc::SYS_setresuid, libc::SYS_setfsuid, uids);
    }
    if amb != own.cap_ambient {
        ambient(script, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0);
        bits(amb).for_each(|cap| ambient(script, libc::PR_CAP_AMBIENT_RAISE, cap));
    }
    if ids_differ || wanted.secbits != 0 {
        prctl(script, libc::PR_SET_SECUREBITS, wanted.secbits, 0);
    }
    if [eff, prm] != [own_eff, own_prm] {
        capset(script, [eff, prm, inh]);
    }
    if wanted.no_new_privs() != 0 {
        prctl(script, libc::PR_SET_NO_NEW_PRIVS, 1, 0);
    }
    Ok(())
}

fn set_ids(script: &mut Script, all: i64, filesystem: i64, [real, effective, saved, fs]: [u32; 4]) {
    script.syscall(all, [real.into(), effective.into(), saved.into()]);
    if fs != effective {
        script.syscall(filesystem, [fs.into()]);
        // These two calls do not fail; they return what was before.
        script.syscall(filesystem, [NO_ID.into()]).check(Check::Eq(fs.into()));
    }
}

fn capset(script: &mut Script, sets: [u64; 3]) {
    let header: Vec<u8> = [CAPABILITY_VERSION_3, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let halves = [0, 32].map(|shift| sets.map(|set| (set >> shift) as u32));
    let data: Vec<u8> = halves.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
    let (header, data) = (script.bytes(&header), script.bytes(&data));
    script.syscall(libc::SYS_capset, [header.into(), data.into()]);
}

fn ambient(script: &mut Script, action: i32, cap: u32) {
    prctl(script, libc::PR_CAP_AMBIENT, action, cap);
}

fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |bit| mask >> bit & 1 == 1)
}

/// Names as in capabilities(7), in order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn names(mask: u64) -> String {
    let name = |bit| match NAMES.get(bit as usize) {
        Some(name) => format!("CAP_{name}"),
        None => format!("capability {bit}"),
    };
    bits(mask).map(name).collect::<Vec<_>>().join(", ")
}

/// The credentials of every thread, and the dumpable flag that hangs on them.
pub struct Credentials;

impl Credentials {
    fn restore_thread(task: &BuiltTask, thread: usize, script: &mut Script) -> Result<(), Error> {
        let pid = task.pid() as i32;
        let thread_core = task.thread(thread).thread_core.as_ref();
        let thread_core = thread_core.ok_or(Error::Missing { pid, part: "thread_core" })?;
        let wanted = thread_core.creds.as_ref().ok_or(Error::Missing { pid, part: "creds" })?;
        lsm::check(wanted)?;
        set(wanted, restorer::status()?, script)
    }
}

impl ThreadState for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn ask<'a>(
        &'a self,
        task: &'a FrozenTask<'a>,
        thread: &'a FrozenThread,
        script: &mut Script,
    ) -> Result<ThreadAnswer<'a>, BoxError> {
        let dir = thread_dir(task, thread)?;
        let status = dir.status()?;
        let secbits = prctl(script, libc::PR_GET_SECUREBITS, 0, 0).id();
        Ok(Box::new(move |outcome, core| {
            let mut creds = from_status(&status, outcome.ret(secbits) as u32);
            lsm::fill(&dir, &mut creds)?;
            let thread_core = core.thread_core.get_or_insert_default();
            thread_core.creds = Some(creds);
            if status.seccomp == STRICT {
                thread_core.seccomp_mode = Some(STRICT as i32);
            }
            Ok(())
        }))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        thread: usize,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        if stage == Stage::State && thread != 0 {
            Self::restore_thread(task, thread, script)?;
        }
        Ok(())
    }
}

impl TaskState for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    /// Every thread answers for itself; the dumpable flag is part of the mm image.
    fn ask<'a>(
        &'a self,
        _: &'a FrozenTask<'a>,
        _: &'a DumpContext<'a>,
        _: &mut Script,
    ) -> Result<Answer<'a>, BoxError> {
        Ok(Box::new(|_, _| Ok(())))
    }

    fn restore(
        &self,
        stage: Stage,
        task: &BuiltTask,
        context: &RestoreContext<'_>,
        script: &mut Script,
    ) -> Result<(), BoxError> {
        if stage != Stage::Last || living(task).is_none() {
            return Ok(());
        }
        Self::restore_thread(task, 0, script)?;
        let mm: Option<MmEntry> = context.store.read_one_opt(Image::Mm, task.pid().into())?;
        if let Some(dumpable) = mm.and_then(|mm| mm.dumpable) {
            // 2 (for root only) comes by an exec alone; 0 is the closest that may be set.
            prctl(script, libc::PR_SET_DUMPABLE, i32::from(dumpable == 1), Arg::Value(0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::MemoryStore;
    use criu_images::proto::{CoreEntry, PstreeEntry, TaskCoreEntry, ThreadCoreEntry};
    use criu_resource::{Life, Numbers, Options};

    fn user() -> CoreEntry {
        let status = Status { uid: [7; 4], gid: [7; 4], ..Default::default() };
        let thread_core = ThreadCoreEntry { creds: Some(from_status(&status, 0)), ..Default::default() };
        let tc = Some(TaskCoreEntry::default());
        CoreEntry { tc, thread_core: Some(thread_core), ..Default::default() }
    }

    fn task(core: CoreEntry) -> BuiltTask {
        let pstree = PstreeEntry { pid: 5, threads: vec![5, 6], ..Default::default() };
        let threads = vec![core.clone()];
        BuiltTask { index: 0, parent: None, pstree, life: Life::Alive, core, threads, ids: None }
    }

    fn first_args(script: &Script) -> Vec<(u32, Arg)> {
        script.steps().iter().map(|step| (step.nr, step.args[0])).collect()
    }

    #[test]
    fn the_main_thread_comes_last_and_then_the_dumpable_flag() {
        let task = task(user());
        let mut others = Script::new("test");
        ThreadState::restore(&Credentials, Stage::State, &task, 0, &mut others).unwrap();
        assert!(others.steps().is_empty(), "the main thread keeps its rights in State");
        ThreadState::restore(&Credentials, Stage::State, &task, 1, &mut others).unwrap();
        assert!(first_args(&others).contains(&(libc::SYS_setresuid as u32, Arg::Value(7))));

        let (options, store, numbers) = (Options::default(), MemoryStore::default(), Default::default());
        let mm = MmEntry { dumpable: Some(1), ..Default::default() };
        store.write_image(Image::Mm, 5, &[mm]).unwrap();
        let _: &std::sync::Mutex<Numbers> = &numbers;
        let context = RestoreContext { options: &options, store: &store, numbers: &numbers };
        let mut main = Script::new("test");
        TaskState::restore(&Credentials, Stage::Last, &task, &context, &mut main).unwrap();
        let steps = first_args(&main);
        assert!(steps.contains(&(libc::SYS_setresuid as u32, Arg::Value(7))));
        assert_eq!(steps.last(), Some(&(libc::SYS_prctl as u32, libc::PR_SET_DUMPABLE.into())));
    }

    #[test]
    fn what_is_not_carried_over_is_refused() {
        let refusal = |change: fn(&mut ThreadCoreEntry)| {
            let mut core = user();
            change(core.thread_core.as_mut().unwrap());
            let mut script = Script::new("test");
            ThreadState::restore(&Credentials, Stage::State, &task(core), 1, &mut script)
                .unwrap_err()
                .to_string()
        };
        let text = refusal(|core| core.creds = None);
        assert!(text.contains("task 5 has no creds"), "{text}");
    }
}
