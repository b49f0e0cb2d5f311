//! The fields of events: those of the schema, and others found in files.

use netconn_model::field::{self, FIELDS};

use crate::diagnostic::nearest;

/// The names of all fields that a query may use.
#[derive(Clone, Debug)]
pub struct Fields {
    /// Fields that are not in the schema, sorted.
    additional: Vec<String>,
}

impl Fields {
    /// Creates the fields of the schema and these, which were found in the searched files.
    pub fn new(additional: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut additional: Vec<String> = additional.into_iter().map(Into::into).collect();
        additional.sort_unstable();
        additional.dedup();
        // Files also have the fields of the schema, which would be listed twice.
        additional.retain(|name| field::by_name(name).is_none());
        Self { additional }
    }

    /// Returns all names, those of the schema first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        FIELDS.iter().map(|field| field.name).chain(self.additional.iter().map(String::as_str))
    }

    /// Whether a field has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Returns the field whose spelling is nearest, if one is near enough.
    pub fn alike(&self, name: &str) -> Option<&str> {
        nearest(name, self.names())
    }

    /// Returns the field that was probably meant: the nearest spelling, or else the only field that ends or begins with
    /// the name.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        if let Some(near) = self.alike(name) {
            return Some(near);
        }
        let written = name.to_lowercase();
        let (ending, beginning) = (format!(".{written}"), format!("{written}."));
        let only = |of: &dyn Fn(&str) -> bool| {
            let mut found = self.names().filter(|known| of(&known.to_lowercase()));
            let first = found.next()?;
            found.next().is_none().then_some(first)
        };
        // The last part of a name is what people remember, so endings are tried first. Of several fields none is
        // suggested.
        only(&|known| known.ends_with(&ending)).or_else(|| only(&|known| known.starts_with(&beginning)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_files_are_fields() {
        let fields = Fields::new(["event.dns.request", "event.type"]);
        assert!(fields.contains("event.dns.request"));
        assert!(fields.contains("dst.port.number"));
        assert!(!fields.contains("dst.port"));
        assert_eq!(fields.names().filter(|name| *name == "event.type").count(), 1);
        assert_eq!(fields.nearest("dst.ip.adress"), Some("dst.ip.address"));
        assert_eq!(fields.nearest("systemdUnit"), Some("src.process.systemdUnit"));
        assert_eq!(fields.nearest("dst.ip"), Some("dst.ip.address"));
        assert_eq!(fields.nearest("src.port"), Some("src.port.number"));
        assert_eq!(fields.nearest("src.process"), None);
        assert_eq!(fields.nearest("nothing.alike"), None);
    }
}
