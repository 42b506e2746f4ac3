//! Memory copied ahead, and pages that go elsewhere.

use super::{Runtime, images, play, variable};
use anyhow::{Context, Result, ensure};
use criu_images::proto::{CriuFeatures, CriuOpts, CriuPageServerInfo, CriuReq, CriuReqType as Kind};
use criu_testkit::{Sandbox, Target, criu};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

/// What a runtime does to move a container with little downtime: copies its memory first, then dumps what changed,
/// the pages by way of a page server.
#[test]
fn a_runtime_copies_ahead_and_sends_pages() {
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    for name in ["ahead", "parted"] {
        sandbox.folder(&format!("images/{name}")).unwrap();
    }
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let variables = [("PID", target.pid.to_string().into()), ("IMAGES", images.clone().into_os_string())];
    play(&sandbox, "migration", &variables);
    target.check().unwrap();
    let stored = |path: &str| fs::metadata(images.join(path)).unwrap().len();
    let (ahead, rest) = (stored("ahead/pages-1.img"), stored("pages-1.img"));
    assert!(ahead > 4 << 20 && rest < 1 << 20, "{ahead} bytes ahead, {rest} at last");
}

pub fn migration() -> Result<()> {
    let (path, _) = images()?;
    let pid: i32 = variable("PID")?.parse()?;
    let request = |kind: Kind, folder: &str, parent: Option<&str>| -> Result<(File, CriuReq)> {
        let images = File::open(path.join(folder))?;
        let opts = CriuOpts {
            images_dir_fd: images.as_raw_fd(),
            pid: Some(pid),
            log_level: Some(4),
            log_file: Some(format!("{}.log", kind.as_str_name().to_lowercase())),
            notify_scripts: Some(true),
            track_mem: Some(true),
            parent_img: parent.map(str::to_owned),
            ..CriuOpts::default()
        };
        Ok((images, CriuReq { r#type: kind.into(), opts: Some(opts), ..CriuReq::default() }))
    };
    let features = Some(CriuFeatures { mem_track: Some(true), ..CriuFeatures::default() });
    let asked = CriuReq { r#type: Kind::FeatureCheck.into(), features, ..CriuReq::default() };
    let answer = Runtime::start()?.ask(&asked, true)?;
    ensure!(answer.features.is_some_and(|features| features.mem_track()), "{answer:?}");

    let (_ahead, pre_dump) = request(Kind::PreDump, "ahead", None)?;
    let mut runtime = Runtime::start()?;
    let copied = runtime.ask_more(&pre_dump, true)?;
    ensure!(copied.success && runtime.stages == ["query-ext-files"], "{copied:?} {:?}", runtime.stages);

    // The pages of this dump lie elsewhere, and the tree runs on.
    let (_parted, mut start) = request(Kind::PageServerChld, "parted", None)?;
    start.keep_open = Some(true);
    let mut server = Runtime::start()?;
    let started = server.ask_more(&start, true)?;
    let ps = started.ps.clone().with_context(|| format!("{started:?}"))?;
    let (_images, mut dump) = request(Kind::Dump, ".", None)?;
    if let Some(opts) = &mut dump.opts {
        opts.ps = Some(CriuPageServerInfo {
            address: Some("127.0.0.1".into()),
            port: ps.port,
            ..Default::default()
        });
        opts.leave_running = Some(true);
    }
    let dumped = Runtime::start()?.ask(&dump, true)?;
    ensure!(dumped.success, "{dumped:?}");
    let wait =
        CriuReq { r#type: Kind::WaitPid.into(), pid: ps.pid.map(|pid| pid as u32), ..CriuReq::default() };
    let ended = server.ask(&wait, true)?;
    ensure!(ended.success && ended.status == Some(0), "{ended:?}");
    ensure!(path.join("parted").join(format!("pagemap-{pid}.img")).exists(), "no pages at the server");

    // On the connection of the pre-dump, upon its images.
    let (_images, dump) = request(Kind::Dump, ".", Some("ahead"))?;
    let dumped = runtime.ask(&dump, true)?;
    ensure!(dumped.success, "{dumped:?}");
    let (_images, restore) = request(Kind::Restore, ".", None)?;
    let restored = Runtime::start()?.ask(&restore, true)?;
    ensure!(restored.success, "{restored:?}");
    Ok(())
}

/// Both ends get a connected socket from who started them.
#[test]
fn pages_go_over_a_socket_that_was_given() {
    let sandbox = Sandbox::new().unwrap();
    let images = sandbox.folder("images").unwrap();
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let variables = [("PID", target.pid.to_string().into()), ("IMAGES", images.into_os_string())];
    play(&sandbox, "given-socket", &variables);
    target.check().unwrap();
}

pub fn given_socket() -> Result<()> {
    let (path, _) = images()?;
    let (here, there) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let criu = |words: &[&str]| {
        let mut command = Command::new(criu());
        command.args(words).arg("-D").arg(&path).stdin(Stdio::null());
        command
    };
    let held = there.try_clone()?; // the end of the connection is no sign of the end
    let mut server = criu(&["page-server", "--ps-socket", "0"]).stdin(there).spawn()?;
    let pid = variable("PID")?;
    let dumped = criu(&["dump", "--page-server", "--ps-socket", "0", "-t", &pid]).stdin(here).status()?;
    ensure!(dumped.success(), "dump: {dumped}");
    let served = server.wait()?;
    ensure!(served.success(), "page-server: {served}");
    drop(held);
    ensure!(path.join("pages-65536.img").exists(), "the pages are elsewhere");
    let restored = criu(&["restore", "-d"]).status()?;
    ensure!(restored.success(), "restore: {restored}");
    Ok(())
}
