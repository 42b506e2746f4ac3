//! Live: a dump whose pages go to a page server.

use criu_testkit::{Criu, Outcome, Running, Sandbox, Target};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PORT: &str = "27";
const CLIENT: [&str; 3] = ["--page-server", "--port", PORT];

#[track_caller]
fn succeeds(outcome: &Outcome, criu: &Criu<'_>, logs: &[&str]) {
    let text =
        logs.iter().map(|log| log.rsplit_once('/').unwrap()).map(|(images, name)| criu.log(images, name));
    assert!(outcome.status.success(), "{outcome}{}", text.collect::<Vec<_>>().join("\n"));
}

/// Starts a server in the sandbox and waits until it listens.
fn serve(criu: &Criu<'_>, binary: &Path, images: &str, options: &[&str]) -> Running {
    let folder = criu.sandbox.folder(images).unwrap();
    let mut command = vec![binary.to_str().unwrap(), "page-server", "-D", folder.to_str().unwrap()];
    command.extend(["--port", PORT, "-v4", "-o", "server.log"]);
    command.extend(options);
    let server = criu.sandbox.spawn(command).unwrap();
    let listening = || {
        let sockets = criu.sandbox.run(["cat", "/proc/net/tcp"]).unwrap().stdout;
        sockets.contains(":001B 00000000:0000 0A")
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !listening() {
        assert!(Instant::now() < end, "{}", criu.log(images, "server.log"));
        sleep(Duration::from_millis(5));
    }
    server
}

fn names(sandbox: &Sandbox, images: &str) -> Vec<String> {
    let files = fs::read_dir(sandbox.path(images)).unwrap();
    files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn is_page_image(name: &str) -> bool {
    name.starts_with("pages-") || name.starts_with("pagemap-")
}

#[test]
fn pages_lie_at_the_server() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    for fixture in ["changing_memory", "copy_on_write"] {
        let mut target = Target::start(&sandbox, &[fixture]).unwrap();
        let (here, there) = (format!("{fixture}-here"), format!("{fixture}-there"));
        let server = serve(&criu, &criu.binary, &there, &[]);
        let dumped = criu.dump(target.pid, &here, &CLIENT).unwrap();
        succeeds(&dumped, &criu, &[&format!("{here}/dump.log"), &format!("{there}/server.log")]);
        succeeds(&server.wait().unwrap(), &criu, &[&format!("{there}/server.log")]);
        assert!(!names(&sandbox, &here).iter().any(|name| is_page_image(name)));
        for name in names(&sandbox, &there).iter().filter(|name| is_page_image(name)) {
            fs::rename(sandbox.path(&there).join(name), sandbox.path(&here).join(name)).unwrap();
        }
        succeeds(&criu.restore(&here, &[]).unwrap(), &criu, &[&format!("{here}/restore.log")]);
        target.check().unwrap();
    }
}

#[test]
fn with_the_reference_at_either_end() {
    let Some(reference) = std::env::var_os("CRIU_REFERENCE") else { return };
    let sandbox = Sandbox::new().unwrap();
    let ours = Criu::new(&sandbox);
    let theirs = Criu { sandbox: &sandbox, binary: reference.into() };
    let tls = Authority::new(&sandbox, "ca").certificate("127.0.0.1");
    let tls = words(&tls);
    for (dumper, server, images, tls) in [
        (&ours, &theirs, "to-theirs", &[][..]),
        (&theirs, &ours, "to-ours", &[]),
        (&ours, &theirs, "to-theirs-tls", &[&tls[..], &["--tls-no-cn-verify"]].concat()),
        (&theirs, &ours, "to-ours-tls", &tls),
    ] {
        let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
        let running = serve(dumper, &server.binary, images, tls);
        let options = [&CLIENT[..], &["--address", "127.0.0.1"], tls].concat();
        let dumped = dumper.dump(target.pid, images, &options).unwrap();
        let logs = [&*format!("{images}/dump.log"), &format!("{images}/server.log")];
        succeeds(&dumped, &ours, &logs);
        succeeds(&running.wait().unwrap(), &ours, &logs);
        succeeds(&ours.restore(images, &[]).unwrap(), &ours, &[&format!("{images}/restore.log")]);
        target.check().unwrap();
    }
}

#[test]
fn without_a_server_nothing_is_frozen() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let outcome = criu.dump(target.pid, "0", &CLIENT).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("page server 127.0.0.1:27"), "{outcome}");
    assert!(!criu.log("0", "dump.log").contains("frozen"));
    target.check().unwrap();
}

#[test]
fn a_server_whose_disk_is_full_leaves_the_tree_running_and_no_image() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let there = sandbox.folder("there").unwrap();
    let there = there.to_str().unwrap();
    let mounted = sandbox.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", there]).unwrap();
    assert!(mounted.status.success(), "{mounted}");
    let server = serve(&criu, &criu.binary, "there", &[]);
    let outcome = criu.dump(target.pid, "here", &CLIENT).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("127.0.0.1:27 ended the connection"), "{outcome}");
    let served = server.wait().unwrap();
    assert!(!served.status.success() && served.stderr.contains("free some space"), "{served}");
    assert!(!names(&sandbox, "here").iter().any(|name| name.ends_with(".img")));
    let left = sandbox.run(["ls", there]).unwrap();
    assert_eq!(left.stdout, "server.log\n");
    target.check().unwrap();
}

#[test]
fn whoever_is_no_client_is_told_off() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    for (bytes, word) in [("GET / HTTP/1.1 and some more words", "is unknown"), ("", "hung up")] {
        let server = serve(&criu, &criu.binary, "there", &[]);
        let client = format!("exec 3<>/dev/tcp/127.0.0.1/{PORT}; printf '{bytes}' >&3");
        sandbox.run(["bash", "-c", &client]).unwrap();
        let served = server.wait().unwrap();
        assert!(!served.status.success() && served.stderr.contains(word), "{served}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut server = serve(&criu, &criu.binary, "there", &[]);
    let folder = sandbox.folder("other").unwrap();
    let command =
        [criu.binary.to_str().unwrap(), "page-server", "-D", folder.to_str().unwrap(), "--port", PORT];
    let outcome = sandbox.run(command).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("listen at 0.0.0.0:27"), "{outcome}");
    server.kill().unwrap();
}

#[test]
fn a_daemon_is_there_when_the_command_returns() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let server = serve(&criu, &criu.binary, "0", &["--daemon", "--pidfile", "server.pid"]);
    succeeds(&server.wait().unwrap(), &criu, &["0/server.log"]);
    let pid = fs::read_to_string(sandbox.path("0/server.pid")).unwrap();
    let running = sandbox.run(["kill", "-0", &pid]).unwrap();
    assert!(running.status.success(), "{running}");
    succeeds(&criu.dump(target.pid, "0", &CLIENT).unwrap(), &criu, &["0/dump.log", "0/server.log"]);
    succeeds(&criu.restore("0", &[]).unwrap(), &criu, &["0/restore.log"]);
    target.check().unwrap();
}

/// Who signs certificates.
struct Authority<'a> {
    sandbox: &'a Sandbox,
    name: &'static str,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(sandbox: &'a Sandbox, name: &'static str) -> Authority<'a> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut about = rcgen::CertificateParams::new([]).unwrap();
        about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        about.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        about.distinguished_name.push(rcgen::DnType::CommonName, name);
        sandbox.folder(name).unwrap();
        let certificate = about.self_signed(&key).unwrap();
        fs::write(sandbox.path(name).join("cacert.pem"), certificate.pem()).unwrap();
        Authority { sandbox, name, issuer: rcgen::Issuer::new(about, key) }
    }

    /// The options of an end that this host is.
    fn certificate(&self, host: &str) -> Vec<String> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut about = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
        about.distinguished_name.push(rcgen::DnType::CommonName, host);
        let certificate = about.signed_by(&key, &self.issuer).unwrap();
        let folder = self.sandbox.path(self.name);
        let [chain, secret] = ["cert", "key"].map(|kind| folder.join(format!("{host}-{kind}.pem")));
        fs::write(&chain, certificate.pem()).unwrap();
        fs::write(&secret, key.serialize_pem()).unwrap();
        let option = |name: &str, path: &Path| [name.to_owned(), path.display().to_string()];
        let mut options = vec!["--tls".to_owned()];
        options.extend(option("--tls-cacert", &folder.join("cacert.pem")));
        options.extend(option("--tls-cert", &chain));
        options.extend(option("--tls-key", &secret));
        options
    }
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

#[test]
fn encrypted_between_ends_that_know_each_other() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let (ours, theirs) = (Authority::new(&sandbox, "ours"), Authority::new(&sandbox, "theirs"));
    let (here, stranger) = (ours.certificate("127.0.0.1"), theirs.certificate("127.0.0.1"));
    let other_host = ours.certificate("10.9.8.7");
    let no_name = [other_host.clone(), vec!["--tls-no-cn-verify".into()]].concat();
    let plain = Vec::new();
    for (index, (server, client, fails)) in [
        (&here, &stranger, true),
        (&stranger, &here, true),
        (&here, &plain, true),
        (&other_host, &here, true),
        (&other_host, &no_name, false),
        (&here, &here, false),
    ]
    .into_iter()
    .enumerate()
    {
        let images = format!("{index}");
        let server = serve(&criu, &criu.binary, &images, &words(server));
        let mut options = [&CLIENT[..], &words(client)].concat();
        options.push("--leave-running");
        let dumped = criu.dump(target.pid, &images, &options).unwrap();
        let served = server.wait().unwrap();
        let state = format!("{index}: {dumped}{served}");
        assert_eq!((dumped.status.success(), served.status.success()), (!fails, !fails), "{state}");
        assert_eq!(names(&sandbox, &images).iter().any(|name| is_page_image(name)), !fails, "{state}");
        target.check().and_then(|()| target.ready()).unwrap();
    }
}
