//! The processes that have a socket open, as rows list them.

use std::{borrow::Cow, fmt::Write as _};

use serde::{Deserialize, de::Deserializer};

use crate::{
    json::{MemberKey, Object, member_key},
    value::{FieldValue, JsonValue, Text},
};

/// An open descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Holder<'a> {
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    #[serde(borrow)]
    pub process_name: Text<'a>,
    /// The descriptor.
    pub fd: u32,
}

/// The open descriptors of a socket: in JSON a list of objects, elsewhere a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HolderList<'a>(pub Vec<Holder<'a>>);

impl HolderList<'_> {
    /// Returns the descriptors of each process: `nginx(12) fd 6,7; sh(13) fd 0`.
    pub fn in_words(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for Holder { pid, process_name, fd } in &self.0 {
            // Writing to a string cannot fail.
            let _ = if last == Some(*pid) {
                write!(text, ",{fd}")
            } else {
                let separator = if text.is_empty() { "" } else { "; " };
                write!(text, "{separator}{process_name}({pid}) fd {fd}")
            };
            last = Some(*pid);
        }
        text
    }
}

impl<'a> FieldValue<'a> for HolderList<'a> {
    type Owned = HolderList<'static>;

    fn into_owned(self) -> HolderList<'static> {
        let owned = |Holder { pid, process_name, fd }: Holder<'_>| Holder {
            pid,
            process_name: Cow::Owned(process_name.into_owned()),
            fd,
        };
        HolderList(self.0.into_iter().map(owned).collect())
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.list(key, &self.0, |Holder { pid, process_name, fd }, object| {
            object.integer(member_key!("pid"), *pid);
            object.string(member_key!("process_name"), process_name);
            object.integer(member_key!("fd"), *fd);
        });
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Owned(self.in_words()))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_one_process_stand_together() {
        let holder = |pid, name: &'static str, fd| Holder { pid, process_name: name.into(), fd };
        let list = HolderList(vec![holder(12, "nginx", 6), holder(12, "nginx", 7), holder(13, "sh", 0)]);
        assert_eq!(list.in_words(), "nginx(12) fd 6,7; sh(13) fd 0");
        assert_eq!(HolderList::default().in_words(), "");
    }
}
