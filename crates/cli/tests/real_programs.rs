//! Live: programs as people run them, with a client that keeps its connection over dump and restore.
//!
//! These tests run only with `LIVE_REAL_PROGRAMS=1`, since they take seconds each and need programs from the
//! distribution: redis-server, nginx, postgresql, python3, nodejs, a JDK, tmux, bash, vim, openssh-server. A test
//! whose program is missing says so and passes. Nothing is left running: every test has a [`Sandbox`].
//!
//! ```sh
//! LIVE_REAL_PROGRAMS=1 cargo test -p criu-cli --test real_programs -- --nocapture
//! ```

use anyhow::{Context, Result, bail, ensure};
use criu_testkit::{Criu, Sandbox};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const ESTABLISHED: &[&str] = &["--tcp-established"];
/// Each program is dumped and restored that often: what was restored is as good as what was started.
const ROUNDS: usize = 2;

/// A test of the programs; it does not run when one of them is missing.
fn with(programs: &[&str], test: impl FnOnce(&Sandbox) -> Result<()>) {
    if std::env::var_os("LIVE_REAL_PROGRAMS").is_none_or(|value| value != "1") {
        return println!("skipped: LIVE_REAL_PROGRAMS is not 1");
    }
    if let Some(missing) = programs.iter().find(|program| find(program).is_none()) {
        return println!("skipped: {missing} is not installed");
    }
    let sandbox = Sandbox::new().expect("a sandbox");
    if let Err(error) = test(&sandbox) {
        let logs = ["dump", "restore"].map(|action| {
            let log = (0..ROUNDS).rev().map(|round| {
                fs::read(sandbox.path(&format!("images-{round}/{action}.log"))).unwrap_or_default()
            });
            let log =
                String::from_utf8_lossy(&log.into_iter().find(|log| !log.is_empty()).unwrap_or_default())
                    .into_owned();
            let lines: Vec<_> = log.lines().collect();
            format!("--- {action}.log\n{}", lines[lines.len().saturating_sub(25)..].join("\n"))
        });
        let program = fs::read_to_string(sandbox.path("program.output")).unwrap_or_default();
        panic!("{error:#}\n{}\n--- the program's output\n{program}", logs.join("\n"));
    }
}

/// Where a program is; servers may be outside of a user's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders =
        path.split(':').chain(["/usr/sbin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/17/bin"]);
    folders.map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
}

fn path_of(program: &str) -> String {
    find(program).expect("looked for before").display().to_string()
}

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "not after {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Starts the program as the leader of a session, and tells its pid.
fn start(sandbox: &Sandbox, command: &[&str]) -> Result<i32> {
    let file = sandbox.path("program.pid");
    let script = "echo $$ > $0.new && mv $0.new $0 && exec \"$@\"";
    let mut words = vec!["sh", "-c", script, file.to_str().context("UTF-8")?];
    words.extend(command);
    sandbox.start("program", words)?;
    wait_for("the program's pid", || Ok(fs::read_to_string(&file).ok()))?.trim().parse().context("pid")
}

fn alive(sandbox: &Sandbox, pid: i32) -> Result<bool> {
    let status = format!("/proc/{pid}/status");
    Ok(sandbox.run(["grep", "-q", "^State:.[^Z]", &status])?.status.success())
}

/// Dumps the tree and makes sure that it is gone.
fn dump(sandbox: &Sandbox, pid: i32, round: usize, options: &[&str]) -> Result<()> {
    let dumped = Criu::new(sandbox).dump(pid, &format!("images-{round}"), options)?;
    ensure!(dumped.status.success(), "dump, round {round}: {dumped}");
    wait_for("the end of the dumped program", || Ok((!alive(sandbox, pid)?).then_some(())))
}

fn restore(sandbox: &Sandbox, pid: i32, round: usize, options: &[&str]) -> Result<()> {
    let restored = Criu::new(sandbox).restore(&format!("images-{round}"), options)?;
    ensure!(restored.status.success(), "restore, round {round}: {restored}");
    ensure!(alive(sandbox, pid)?, "the restored program died, round {round}");
    Ok(())
}

/// Rounds of dump and restore, with words between client and server around each.
fn survives(
    sandbox: &Sandbox,
    pid: i32,
    options: &[&str],
    mut talk: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    talk(0).context("before the first dump")?;
    for round in 0..ROUNDS {
        dump(sandbox, pid, round, options)?;
        restore(sandbox, pid, round, options)?;
        talk(round + 1).with_context(|| format!("after restore {round}"))?;
    }
    Ok(())
}

/// A client outside of the dumped tree. It connects once; what is said to it goes to the server.
struct Client {
    input: File,
    output: PathBuf,
    heard: usize,
}

impl Client {
    /// Of a TCP server inside of the sandbox.
    fn connect(sandbox: &Sandbox, port: u16) -> Result<Client> {
        let connect = format!(
            "until exec 3<>/dev/tcp/127.0.0.1/{port}; do sleep 0.05; done 2>/dev/null
             tail -n +1 -s 0.02 -f client.in >&3 & exec cat <&3"
        );
        Client::of(sandbox, &["bash", "-c", &connect])
    }

    /// A command that takes its input from the file `client.in`.
    fn of(sandbox: &Sandbox, command: &[&str]) -> Result<Client> {
        let input = File::create(sandbox.path("client.in"))?;
        sandbox.start("client", command)?;
        Ok(Client { input, output: sandbox.path("client.output"), heard: 0 })
    }

    /// Says something, and waits for an answer with this text in it.
    fn ask(&mut self, question: &str, answer: &str) -> Result<()> {
        self.input.write_all(question.as_bytes())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let heard = String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned();
            let new = heard.get(self.heard..).unwrap_or_default();
            if let Some(at) = new.find(answer) {
                self.heard += at + answer.len();
                return Ok(());
            }
            if Instant::now() > end {
                bail!("asked {question:?}, expected {answer:?}, heard {new:?}");
            }
            sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn redis_keeps_its_data_and_its_client() {
    with(&["redis-server", "bash"], |sandbox| {
        let folder = sandbox.folder("redis")?;
        let words = ["--port", "6379", "--save", "", "--daemonize", "no", "--dir"];
        let server = path_of("redis-server");
        let command = [&[server.as_str()], &words[..], &[folder.to_str().context("UTF-8")?]].concat();
        let pid = start(sandbox, &command)?;
        let mut client = Client::connect(sandbox, 6379)?;
        client.ask("SET kept 4711\r\nCLIENT SETNAME faithful\r\n", "+OK\r\n+OK\r\n")?;
        survives(sandbox, pid, ESTABLISHED, |round| {
            client.ask("GET kept\r\n", "$4\r\n4711\r\n")?;
            client.ask("CLIENT GETNAME\r\n", "faithful\r\n")?;
            client.ask("INCR rounds\r\n", &format!(":{}\r\n", round + 1))
        })
    });
}

#[test]
fn nginx_with_workers_of_another_user() {
    with(&["nginx", "bash"], |sandbox| {
        let folder = sandbox.folder("nginx")?;
        let root = folder.display();
        fs::write(folder.join("page"), "one page\n")?;
        let configuration = format!(
            "daemon off; master_process on; worker_processes 2; user www-data; pid {root}/pid;
             error_log {root}/error.log; events {{ worker_connections 64; }}
             http {{ access_log {root}/access.log; keepalive_timeout 1h;
               client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
               uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
               server {{ listen 127.0.0.1:8080; root {root}; }} }}"
        );
        fs::write(folder.join("conf"), configuration)?;
        let conf = folder.join("conf").display().to_string();
        let pid = start(sandbox, &[&path_of("nginx"), "-c", &conf])?;
        let mut client = Client::connect(sandbox, 8080)?;
        survives(sandbox, pid, ESTABLISHED, |_| {
            client.ask("GET /page HTTP/1.1\r\nHost: here\r\n\r\n", "\r\n\r\none page\n")
        })
    });
}

#[test]
fn postgresql_with_a_session() {
    with(&["postgres", "initdb", "psql", "setpriv"], |sandbox| {
        let folder = sandbox.folder("postgres")?;
        let data = folder.join("data").display().to_string();
        let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
        let initdb = path_of("initdb");
        let init = ["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"];
        let made = sandbox.run([&user[..], &[initdb.as_str()], &init[..]].concat())?;
        ensure!(made.status.success(), "{made}");
        let postgres = path_of("postgres");
        let server = [postgres.as_str(), "-D", &data, "-k", &data, "-h", "127.0.0.1", "-F"];
        let pid = start(sandbox, &[&user[..], &server[..]].concat())?;
        let psql = "until psql -h 127.0.0.1 -U postgres -c 'select 1'; do sleep 0.1; done >/dev/null 2>&1
             tail -n +1 -s 0.02 -f client.in | psql -h 127.0.0.1 -U postgres -At -v ON_ERROR_STOP=1 2>&1";
        let mut client = Client::of(sandbox, &["bash", "-c", psql])?;
        client.ask("create table kept (round int);\n", "CREATE TABLE")?;
        client.ask("begin; insert into kept values (-1);\n", "INSERT 0 1")?;
        // The transaction stays open, and so does the interlock, a System V segment.
        survives(sandbox, pid, ESTABLISHED, |round| {
            client.ask(&format!("insert into kept values ({round});\n"), "INSERT 0 1")?;
            client.ask("select 'rows ' || count(*) from kept;\n", &format!("rows {}\n", round + 2))
        })?;
        let sum = (0..=ROUNDS).sum::<usize>() as i64 - 1;
        client.ask("commit; select 'sum ' || sum(round) from kept;\n", &format!("sum {sum}\n"))
    });
}

/// A server that counts what it is asked, in a thread that is not the one that listens.
fn counts(sandbox: &Sandbox, name: &str, text: &str, command: &[&str]) -> Result<()> {
    let file = sandbox.path(name);
    fs::write(&file, text)?;
    let pid = start(sandbox, &[command, &[file.to_str().context("UTF-8")?]].concat())?;
    let mut client = Client::connect(sandbox, 9000)?;
    survives(sandbox, pid, ESTABLISHED, |round| client.ask("next\n", &format!("number {round}\n")))
}

#[test]
fn python_with_threads() {
    let text = "
import queue, socketserver, threading, time
asked, ticks = queue.Queue(), 0
def tick():
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1
def count():
    number = 0
    while True:
        answer = asked.get()
        before = ticks
        while ticks == before: time.sleep(0.01)
        answer.put(number)
        number += 1
class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        answer = queue.Queue()
        for line in self.rfile:
            asked.put(answer)
            self.wfile.write(b'number %d\\n' % answer.get())
for work in tick, count:
    threading.Thread(target=work, daemon=True).start()
socketserver.ThreadingTCPServer(('127.0.0.1', 9000), Talk).serve_forever()
";
    with(&["python3", "bash"], |sandbox| counts(sandbox, "server.py", text, &["python3", "-u"]));
}

#[test]
fn node_with_a_worker_thread() {
    let text = "
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
if (isMainThread) {
  const worker = new Worker(__filename), waiting = [];
  worker.on('message', number => waiting.shift().write(`number ${number}\\n`));
  setInterval(() => require('node:fs').stat('/', () => {}), 10);
  require('node:net').createServer(client => client.on('data', () => {
    waiting.push(client);
    worker.postMessage('next');
  })).listen(9000, '127.0.0.1');
} else {
  let number = 0;
  parentPort.on('message', () => parentPort.postMessage(number++));
}
";
    with(&["node", "bash"], |sandbox| counts(sandbox, "server.js", text, &["node"]));
}

#[test]
fn java_with_threads() {
    let text = "
import java.io.*;
import java.net.*;
import java.util.concurrent.*;
public class Server {
  static int number = 0;
  public static void main(String[] arguments) throws Exception {
    ExecutorService counter = Executors.newSingleThreadExecutor();
    ScheduledExecutorService ticker = Executors.newScheduledThreadPool(2);
    ticker.scheduleAtFixedRate(() -> { byte[] waste = new byte[100000]; }, 0, 5, TimeUnit.MILLISECONDS);
    ServerSocket server = new ServerSocket(9000, 8, InetAddress.getByName(\"127.0.0.1\"));
    while (true) {
      Socket client = server.accept();
      new Thread(() -> {
        try {
          BufferedReader in = new BufferedReader(new InputStreamReader(client.getInputStream()));
          OutputStream out = client.getOutputStream();
          while (in.readLine() != null)
            out.write((\"number \" + counter.submit(() -> number++).get() + \"\\n\").getBytes());
        } catch (Exception error) { error.printStackTrace(); }
      }).start();
    }
  }
}
";
    with(&["java", "javac", "bash"], |sandbox| {
        counts(sandbox, "Server.java", text, &["java", "-Xmx64m", "-XX:+UseSerialGC"])
    });
}

/// A tmux server and what is on its first pane.
struct Tmux<'a> {
    sandbox: &'a Sandbox,
    socket: String,
}

impl<'a> Tmux<'a> {
    fn start(sandbox: &'a Sandbox, command: &[&str]) -> Result<Tmux<'a>> {
        let tmux = Tmux { sandbox, socket: sandbox.path("tmux").display().to_string() };
        let new = ["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"];
        sandbox.start(
            "program",
            [&["env", "LC_ALL=C.UTF-8", "tmux", "-S", &tmux.socket][..], &new, command].concat(),
        )?;
        wait_for("the first prompt", || Ok(tmux.screen().ok().filter(|screen| screen.contains("ready>"))))?;
        Ok(tmux)
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let outcome = self.sandbox.run([&["tmux", "-S", &self.socket][..], words].concat())?;
        ensure!(outcome.status.success(), "{outcome}");
        Ok(outcome.stdout)
    }

    /// Waits until the pane's foreground job is this program.
    fn foreground(&self, program: &str) -> Result<()> {
        wait_for(&format!("{program} in the foreground"), || {
            Ok((self.run(&["display-message", "-p", "#{pane_current_command}"])?.trim() == program)
                .then_some(()))
        })
    }

    fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// Types keys and waits until the screen shows the text.
    fn types(&self, keys: &[&str], expected: &str) -> Result<()> {
        self.run(&[&["send-keys"], keys].concat())?;
        let shown = wait_for(expected, || Ok(self.screen()?.contains(expected).then_some(())));
        shown
            .with_context(|| format!("typed {keys:?}, the screen is {:?}", self.screen().unwrap_or_default()))
    }
}

const BASH: &[&str] = &["env", "PS1=ready> ", "HISTFILE=", "bash", "--norc", "--noprofile"];

#[test]
fn bash_with_jobs_in_tmux() {
    with(&["tmux", "bash"], |sandbox| {
        let tmux = Tmux::start(sandbox, BASH)?;
        let pid = tmux.run(&["display-message", "-p", "#{pid}"])?.trim().parse()?;
        tmux.types(&["x=47; y=11; sleep 1000 & echo $x$y", "Enter"], "\n4711")?;
        tmux.types(&["sleep 2000", "Enter"], "sleep 2000\n")?;
        tmux.foreground("sleep")?;
        tmux.types(&["C-z"], "Stopped")?;
        survives(sandbox, pid, &[], |round| {
            let command = format!("clear; jobs; echo round $(({round} + 0)): $((x + y))");
            tmux.types(&[&command, "Enter"], &format!("\nround {round}: 58"))?;
            let screen = tmux.screen()?;
            let jobs = ["Running                 sleep 1000", "Stopped                 sleep 2000"];
            ensure!(jobs.iter().all(|job| screen.contains(job)), "the screen is {screen:?}");
            Ok(())
        })?;
        tmux.types(&["clear; fg %2", "Enter"], "sleep 2000")?;
        tmux.types(&["C-c"], "^C")?;
        tmux.types(&["clear; kill %1; wait; echo all $?", "Enter"], "all 0")
    });
}

#[test]
fn vim_on_a_terminal() {
    with(&["tmux", "bash", "vim"], |sandbox| {
        let tmux = Tmux::start(sandbox, BASH)?;
        let file = sandbox.path("text");
        let script = format!(
            "echo $$ > {}; exec vim -u NONE -N {}",
            sandbox.path("program.pid").display(),
            file.display()
        );
        tmux.types(&[&format!("sh -c '{script}'"), "Enter"], "~\n~\n")?;
        let pid = fs::read_to_string(sandbox.path("program.pid"))?.trim().parse()?;
        tmux.types(&["i", "first line", "Enter"], "first line\n")?;
        for round in 0..ROUNDS {
            dump(sandbox, pid, round, &["--shell-job"])?;
            let restore = Criu::new(sandbox).restore_command(&format!("images-{round}"), &["--shell-job"]);
            let restore: Vec<_> =
                restore.iter().filter(|word| *word != "-d").map(|word| word.to_string_lossy()).collect();
            tmux.foreground("bash")?;
            tmux.run(&["send-keys", &format!("clear; {}", restore.join(" ")), "Enter"])?;
            wait_for("vim is restored", || Ok(alive(sandbox, pid)?.then_some(())))?;
            wait_for("the restore's end", || {
                Ok(sandbox.path(&format!("images-{round}/pid")).exists().then_some(()))
            })?;
            tmux.types(&[&format!("written after {round}")], &format!("written after {round}"))?;
        }
        tmux.types(&["Escape", ":w", "Enter"], "2L")?;
        wait_for("the file", || Ok(fs::read_to_string(&file).ok()))?;
        let text = fs::read_to_string(&file)?;
        ensure!(text == "first line\nwritten after 0written after 1\n", "the file is {text:?}");
        tmux.types(&[":q", "Enter"], "ready>")?;
        tmux.foreground("bash")
    });
}

#[test]
fn sshd_with_a_session() {
    with(&["sshd", "ssh", "ssh-keygen", "bash"], |sandbox| {
        let folder = sandbox.folder("ssh")?;
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let (key, host) =
            (folder.join("key").display().to_string(), folder.join("host").display().to_string());
        for file in [&key, &host] {
            let made = sandbox.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file])?;
            ensure!(made.status.success(), "{made}");
        }
        ensure!(sandbox.run(["mkdir", "-p", "/run/sshd"])?.status.success(), "/run/sshd");
        let options = [
            "Port=2222".to_owned(),
            "ListenAddress=127.0.0.1".into(),
            format!("HostKey={host}"),
            format!("AuthorizedKeysFile={key}.pub"),
            "StrictModes=no".into(),
            "PidFile=none".into(),
        ];
        let sshd = path_of("sshd");
        let mut command = vec![sshd.as_str(), "-D", "-e", "-f", "/dev/null"];
        options.iter().for_each(|option| command.extend(["-o", option]));
        let pid = start(sandbox, &command)?;
        let client = format!(
            "until exec 3<>/dev/tcp/127.0.0.1/2222; do sleep 0.05; done 2>/dev/null; exec 3>&-
             tail -n +1 -s 0.02 -f client.in | ssh -F none -p 2222 -i {key} -o StrictHostKeyChecking=no \
               -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -tt root@127.0.0.1 2>&1"
        );
        let mut client = Client::of(sandbox, &["bash", "-c", &client])?;
        client.ask("stty -echo; kept=47; unset PROMPT_COMMAND\n", "")?;
        survives(sandbox, pid, ESTABLISHED, |round| {
            client.ask(&format!("echo {round}: ${{kept}}11\n"), &format!("{round}: 4711"))
        })
    });
}
