//! The parents of a process, as one text that its children share.

use std::{cell::OnceCell, rc::Rc};

/// Most parents that a text names.
const PARENTS_MAX: usize = 8;
/// Most bytes of a text.
const BYTES_MAX: usize = 512;
/// Stands between two parents.
const SEPARATOR: &str = " < ";

/// The parents of a process: `bash(812) < sshd(800) < systemd(1)`. A text is made once for all children of a process, when the first of
/// them is born; a birth costs a counted reference.
#[derive(Debug, Default)]
pub(crate) struct Ancestry {
    /// The parents of the process.
    above: OnceCell<Rc<str>>,
    /// The process and its parents.
    below: OnceCell<Rc<str>>,
}

impl Ancestry {
    /// Returns the parents, the nearest first; `None` if none is known.
    pub(super) fn above(&self) -> Option<&str> {
        self.above.get().map(|text| &**text)
    }

    /// Returns what the children of a process with this name and id have above them. To be called when its own parents are known.
    pub(super) fn below(&self, name: &str, tgid: u32) -> Rc<str> {
        let text = self.below.get_or_init(|| {
            // A process chooses its name: it must not look like several.
            let mut text = format!("{}({tgid})", name.replace('<', "?"));
            for parent in self.above().unwrap_or_default().split(SEPARATOR).take(PARENTS_MAX - 1) {
                if parent.is_empty() || text.len() + SEPARATOR.len() + parent.len() > BYTES_MAX {
                    break;
                }
                text.push_str(SEPARATOR);
                text.push_str(parent);
            }
            text.into()
        });
        Rc::clone(text)
    }

    /// Sets the parents, unless they are known.
    pub(super) fn set_above(&self, text: Rc<str>) {
        // An error means that they are known.
        let _ = self.above.set(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_named_from_the_nearest_on_and_bounded() {
        let mut text: Rc<str> = Ancestry::default().below("init", 1);
        assert_eq!(&*text, "init(1)");
        for tgid in 2..=20 {
            let ancestry = Ancestry::default();
            ancestry.set_above(text);
            text = ancestry.below("a < b", tgid);
        }
        let parents: Vec<&str> = text.split(SEPARATOR).collect();
        assert_eq!((parents[0], parents.len()), ("a ? b(20)", PARENTS_MAX));
        // Names that are no UTF-8.
        let mut text: Rc<str> = "".into();
        for tgid in 4_000_000..4_000_020 {
            let ancestry = Ancestry::default();
            ancestry.set_above(text);
            text = ancestry.below(&"\u{fffd}".repeat(60), tgid);
            assert!(text.len() <= BYTES_MAX, "{}", text.len());
        }
    }
}
