//! `cargo xtask install [--as-criu] [--prefix DIR]`: binary, man page, completions.

use crate::cargo::build;
use anyhow::{Context, Result, bail, ensure};
use criu_config::args::{docs, help};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The name under which container runtimes look the binary up.
const CRIU: &str = "criu";
const CRIU_RS: &str = "criu-rs";

/// Builds for release and installs below `--prefix` (/usr/local), itself below `$DESTDIR` where that is set.
pub fn run(words: &[&str]) -> Result<()> {
    let (prefix, as_criu) = arguments(words)?;
    let root = match std::env::var_os("DESTDIR").filter(|root| !root.is_empty()) {
        Some(root) => Path::new(&root).join(prefix.strip_prefix("/").unwrap_or(&prefix)),
        None => prefix,
    };
    let binary = build("criu-cli", CRIU_RS, true)?;
    for path in install(&binary, &root, as_criu)? {
        println!("{}", path.display());
    }
    Ok(())
}

fn arguments(words: &[&str]) -> Result<(PathBuf, bool)> {
    let (mut prefix, mut as_criu) = (PathBuf::from("/usr/local"), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match (*word, word.strip_prefix("--prefix=")) {
            ("--as-criu", _) => as_criu = true,
            ("--prefix", _) => prefix = words.next().context("--prefix needs a folder")?.into(),
            (_, Some(folder)) => prefix = folder.into(),
            _ => bail!("install: no such option: {word}"),
        }
    }
    ensure!(prefix.is_absolute(), "--prefix {}: not an absolute path", prefix.display());
    Ok((prefix, as_criu))
}

/// Puts everything into place, and tells what it put where.
fn install(binary: &Path, root: &Path, as_criu: bool) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        (root.join("bin").join(CRIU_RS), fs::read(binary).context("the binary")?, 0o755),
        (root.join("share/man/man8/criu-rs.8"), docs::man_page()?.into_bytes(), 0o644),
    ];
    let names: &[&str] = if as_criu { &[CRIU_RS, CRIU] } else { &[CRIU_RS] };
    for name in names {
        for (shell, path) in [
            ("bash", format!("share/bash-completion/completions/{name}")),
            ("zsh", format!("share/zsh/site-functions/_{name}")),
            ("fish", format!("share/fish/vendor_completions.d/{name}.fish")),
        ] {
            let script = help::completions(shell, name).context("a shell without completions")?;
            files.push((root.join(path), script.into_bytes(), 0o644));
        }
    }
    let links: &[(&str, &str)] = match as_criu {
        true => &[("bin/criu", CRIU_RS), ("share/man/man8/criu.8", "criu-rs.8")],
        false => &[],
    };
    // Looked at before anything changes.
    for (name, _) in links {
        let link = root.join(name);
        ensure!(link.is_symlink() || !link.exists(), "{}: somebody else's; remove it first", link.display());
    }
    let mut done = Vec::new();
    for (path, content, mode) in files {
        let new = beside(&path)?;
        fs::write(&new, content).with_context(|| new.display().to_string())?;
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        fs::rename(&new, &path)?;
        done.push(path);
    }
    for (name, target) in links {
        let link = root.join(name);
        let new = beside(&link)?;
        symlink(target, &new).with_context(|| new.display().to_string())?;
        fs::rename(&new, &link)?;
        done.push(link);
    }
    Ok(done)
}

/// A free name in the same folder, which is made: whoever runs the old file keeps it until the rename.
fn beside(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let name = path.file_name().context("a name")?.to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    fn tree(root: &Path) -> BTreeSet<String> {
        let mut folders = vec![root.to_owned()];
        let mut files = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        files
    }

    const PLAIN: [&str; 5] = [
        "bin/criu-rs",
        "share/bash-completion/completions/criu-rs",
        "share/fish/vendor_completions.d/criu-rs.fish",
        "share/man/man8/criu-rs.8",
        "share/zsh/site-functions/_criu-rs",
    ];

    #[test]
    fn all_is_in_place() {
        let prefix = tempfile::tempdir().unwrap();
        let root = prefix.path();
        install(Path::new("/bin/echo"), root, false).unwrap();
        assert_eq!(tree(root), PLAIN.map(str::to_owned).into());
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(PLAIN.map(mode), [0o755, 0o644, 0o644, 0o644, 0o644]);
        let committed = include_str!("../../docs/criu-rs.8");
        assert_eq!(fs::read_to_string(root.join("share/man/man8/criu-rs.8")).unwrap(), committed);
    }

    #[test]
    fn runtimes_find_criu() {
        let prefix = tempfile::tempdir().unwrap();
        let root = prefix.path();
        // Twice: an update.
        for program in ["/bin/false", "/bin/echo"] {
            install(Path::new(program), root, true).unwrap();
        }
        let output = Command::new(root.join("bin/criu")).arg("found").output().unwrap();
        assert_eq!(output.stdout, b"found\n");
        let names = tree(root);
        assert_eq!(names.len(), 10, "{names:?}");
        assert!(names.contains("share/man/man8/criu.8"));
        let bash = fs::read_to_string(root.join("share/bash-completion/completions/criu")).unwrap();
        assert!(bash.trim_end().ends_with("bashdefault -o default criu\nfi"), "{bash}");
    }

    #[test]
    fn the_reference_is_not_overwritten() {
        let prefix = tempfile::tempdir().unwrap();
        let criu = prefix.path().join("bin/criu");
        fs::create_dir(prefix.path().join("bin")).unwrap();
        fs::write(&criu, "the reference").unwrap();
        let error = install(Path::new("/bin/echo"), prefix.path(), true).unwrap_err().to_string();
        assert!(error.contains("remove it first"), "{error}");
        assert_eq!(tree(prefix.path()).len(), 1);
        assert_eq!(fs::read_to_string(criu).unwrap(), "the reference");
    }

    #[test]
    fn options() {
        assert_eq!(arguments(&[]).unwrap(), ("/usr/local".into(), false));
        assert_eq!(arguments(&["--as-criu", "--prefix", "/opt"]).unwrap(), ("/opt".into(), true));
        assert_eq!(arguments(&["--prefix=/usr"]).unwrap(), ("/usr".into(), false));
        assert!(arguments(&["--prefix", "here"]).is_err());
        assert!(arguments(&["--perfix=/usr"]).is_err());
    }
}
