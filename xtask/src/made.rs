//! Folders that are made once: environments of peers, libtorch.
//!
//! A folder is complete when its stamp is written, which is the last thing done; anything else is made anew.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A folder that is made once.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    pub(crate) folder: PathBuf,
    /// The file inside that is written last.
    pub(crate) stamp: &'a str,
    /// Everything that decides what the folder holds: another text means another folder.
    pub(crate) recipe: &'a str,
    /// A file inside without which the folder is of no use.
    pub(crate) proof: &'a str,
}

impl Made<'_> {
    /// Whether it is there, whole and of this recipe.
    pub(crate) fn is_ready(&self) -> bool {
        fs::read_to_string(self.folder.join(self.stamp)).is_ok_and(|stamp| stamp == self.recipe_hash())
            && self.folder.join(self.proof).exists()
    }

    /// Finds it, or makes it by `make`, which gets the path of a folder that does not exist. With `anew`, what is there
    /// is of no interest.
    pub(crate) fn ensure(&self, anew: bool, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = &self.folder;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = folder.parent().context("a folder without a parent")?;
        fs::create_dir_all(parent)?;
        // Two runs at once: the second waits, then finds the folder made.
        let lock = File::create(parent.join(format!("{name}.lock")))?;
        lock.lock().with_context(|| format!("could not lock {}", parent.display()))?;
        if !anew && self.is_ready() {
            println!("    {name}: ready");
            return Ok(());
        }
        if folder.exists() && !self.is_ready() {
            println!("    {name}: half-made or of another recipe: making it anew");
            fs::remove_dir_all(folder)?;
        }
        // One that is of use stays until its successor is made, and if that fails.
        let kept = parent.join(format!("{name}.old"));
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        if folder.exists() {
            fs::rename(folder, &kept)?;
        }
        let made = make(folder).and_then(|()| Ok(fs::write(folder.join(self.stamp), self.recipe_hash())?));
        if made.is_err() && kept.exists() {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::rename(&kept, folder)?;
        } else if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        made.with_context(|| format!("could not make {}", folder.display()))
    }

    fn recipe_hash(&self) -> String {
        Sha256::digest(self.recipe).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn what_is_whole_is_kept_and_what_is_not_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("thing");
        let made = |recipe: &'static str| Made { folder: folder.clone(), stamp: "stamp", recipe, proof: "a" };
        let mut times = 0;
        let mut make = |recipe: &'static str, anew: bool, works: bool| {
            made(recipe).ensure(anew, |folder| {
                assert!(!folder.exists());
                times += 1;
                fs::create_dir(folder)?;
                if !works {
                    bail!("died half-way");
                }
                Ok(fs::write(folder.join("a"), "")?)
            })
        };
        make("1", false, false).unwrap_err();
        assert!(!made("1").is_ready());
        make("1", false, true).unwrap();
        make("1", false, true).unwrap();
        make("2", false, true).unwrap();
        make("2", true, true).unwrap();
        make("2", true, false).unwrap_err();
        assert_eq!(times, 5);
        assert!(made("2").is_ready() && !made("1").is_ready());
        fs::remove_file(folder.join("a")).unwrap();
        assert!(!made("2").is_ready());
    }
}
