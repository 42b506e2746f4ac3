//! Prints an image as JSON, as `crit decode --pretty` would shape it:
//! `cargo run -p criu-images --example decode -- dump/core-42.img`

use std::{env, fs::File, io::BufReader, path::Path};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let path = env::args_os().nth(1).context("usage: decode IMAGE")?;
    let path = Path::new(&path);
    let name = path.file_name().context("a file's path expected")?.to_string_lossy();

    let file = File::open(path).with_context(|| path.display().to_string())?;
    let document = criu_images::json::read(BufReader::new(file), &name)?;
    for field in &document.unknown {
        eprintln!("{}: not shown: {field}", path.display());
    }
    println!("{}", serde_json::to_string_pretty(&document.value)?);
    Ok(())
}
