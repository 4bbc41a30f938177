//! Commands of the demo, shown as they are run.

use crate::moto::{self, MotoServer};
use anyhow::{Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const CKPT: &str = "target/debug/titan-ckpt";
const TRAIN: &str = "target/debug/titan-train";
/// Lines that are shown of what a command prints.
const LINES_MAX: usize = 30;

/// Shows commands and runs them.
pub(super) struct Story {
    server: Option<MotoServer>,
}

impl Story {
    /// With an S3 server, where one is wanted.
    pub(super) fn new(root: &Path, s3: bool) -> Result<Self> {
        let server = match s3 {
            true => Some(MotoServer::start(root, &moto::ensure_installed(root)?)?),
            false => None,
        };
        Ok(Story { server })
    }

    /// A place of the run: in the bucket of the server, or a folder.
    pub(super) fn place(&self, folder: &Path, name: &str) -> String {
        match self.server {
            Some(_) => format!("s3://bucket/demo/{name}"),
            None => folder.join(name).to_string_lossy().into_owned(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(server) = &self.server {
            command.env("AWS_ENDPOINT_URL", &server.address).env("AWS_REGION", "us-east-1");
            command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "secret");
        }
        command.env("TITAN_TORCH_CUDA", "off").env("LOG_RANK", "0").stdin(Stdio::null());
        command
    }

    /// Runs `titan-ckpt`, which must end with this status.
    pub(super) fn ckpt(&self, title: &str, words: &[&str], status: i32) -> Result<()> {
        println!("\n# {title}\n$ titan-ckpt {}", words.join(" "));
        let start = Instant::now();
        let output = self.command(CKPT).args(words).output()?;
        let seconds = start.elapsed().as_secs_f64();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().take(LINES_MAX).for_each(|line| println!("{line}"));
        if lines.len() > LINES_MAX {
            println!("... {} more lines", lines.len() - LINES_MAX);
        }
        println!("[{seconds:.3} s]");
        if output.status.code() != Some(status) {
            bail!("titan-ckpt {} ended with {}, expected status {status}", words.join(" "), output.status);
        }
        Ok(())
    }

    /// Runs `titan-train` and hands every line of its log to `line`, which may have it killed by giving `true`.
    pub(super) fn train(
        &self,
        title: &str,
        words: &[&str],
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        println!("\n# {title}\n$ titan-train {}", words.join(" "));
        let start = Instant::now();
        let mut child = self.command(TRAIN).args(words).stdout(Stdio::piped()).spawn()?;
        let mut killed = false;
        if let Some(stdout) = child.stdout.take() {
            for said in BufReader::new(stdout).lines() {
                let said = said?;
                println!("{said}");
                if !killed && line(&said) {
                    // The ranks end with the process that started them.
                    child.kill()?;
                    killed = true;
                }
            }
        }
        let status = child.wait()?;
        println!("[{:.1} s{}]", start.elapsed().as_secs_f64(), if killed { ", killed" } else { "" });
        match killed || status.success() {
            true => Ok(()),
            false => bail!("titan-train {} ended with {status}", words.join(" ")),
        }
    }
}
