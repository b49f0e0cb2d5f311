//! The fields of events: those of the schema, and others found in files.

use netconn_model::field::{self, FIELDS};

use crate::diagnostic::nearest;

/// Names that other tools and people use, in lower case, with those of netconn.
const OTHER_NAMES: [(&str, &str); 58] = [
    ("ip", "dst.ip.address"),
    ("address", "dst.ip.address"),
    ("dst_ip", "dst.ip.address"),
    ("dest_ip", "dst.ip.address"),
    ("dstip", "dst.ip.address"),
    ("destip", "dst.ip.address"),
    ("destination_ip", "dst.ip.address"),
    ("destinationip", "dst.ip.address"),
    ("destination.ip", "dst.ip.address"),
    ("event.network.destination.ip", "dst.ip.address"),
    ("event.network.dst.ip", "dst.ip.address"),
    ("id.resp_h", "dst.ip.address"),
    ("src_ip", "src.ip.address"),
    ("srcip", "src.ip.address"),
    ("source_ip", "src.ip.address"),
    ("sourceip", "src.ip.address"),
    ("source.ip", "src.ip.address"),
    ("event.network.source.ip", "src.ip.address"),
    ("event.network.src.ip", "src.ip.address"),
    ("id.orig_h", "src.ip.address"),
    ("local_ip", "local.ip.address"),
    ("localip", "local.ip.address"),
    ("remote_ip", "remote.ip.address"),
    ("remoteip", "remote.ip.address"),
    ("port", "dst.port.number"),
    ("dst_port", "dst.port.number"),
    ("dest_port", "dst.port.number"),
    ("dstport", "dst.port.number"),
    ("destination_port", "dst.port.number"),
    ("destinationport", "dst.port.number"),
    ("destination.port", "dst.port.number"),
    ("event.network.destination.port", "dst.port.number"),
    ("id.resp_p", "dst.port.number"),
    ("src_port", "src.port.number"),
    ("source_port", "src.port.number"),
    ("sourceport", "src.port.number"),
    ("source.port", "src.port.number"),
    ("event.network.source.port", "src.port.number"),
    ("id.orig_p", "src.port.number"),
    ("local_port", "local.port.number"),
    ("localport", "local.port.number"),
    ("remote_port", "remote.port.number"),
    ("remoteport", "remote.port.number"),
    ("host", "endpoint.name"),
    ("hostname", "endpoint.name"),
    ("host.name", "endpoint.name"),
    ("devicename", "endpoint.name"),
    ("process", "src.process.name"),
    ("process.name", "src.process.name"),
    ("initiatingprocessfilename", "src.process.name"),
    ("process.executable", "src.process.image.path"),
    ("image", "src.process.image.path"),
    ("process.command_line", "src.process.cmdline"),
    ("initiatingprocesscommandline", "src.process.cmdline"),
    ("user", "src.process.user"),
    ("user.name", "src.process.user"),
    ("network.direction", "event.network.direction"),
    ("protocol", "event.network.protocol"),
];

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

    /// Returns the field that was probably meant: the one that other tools call so, the nearest spelling, or else the only
    /// field that ends or begins with the name.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let lower = name.to_lowercase();
        if let Some((_, here)) = OTHER_NAMES.iter().find(|(other, _)| *other == lower) {
            return Some(here);
        }
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
        assert_eq!(fields.nearest("event.network.destination.ip"), Some("dst.ip.address"));
        assert_eq!(fields.nearest("IP"), Some("dst.ip.address"));
        assert_eq!(fields.nearest("host"), Some("endpoint.name"));
        assert!(
            OTHER_NAMES.iter().all(|(other, here)| field::by_name(here).is_some() && field::by_name(other).is_none())
        );
        assert!(OTHER_NAMES.iter().all(|(other, _)| *other == other.to_lowercase()));
        assert_eq!(fields.nearest("src.port"), Some("src.port.number"));
        assert_eq!(fields.nearest("src.process"), None);
        assert_eq!(fields.nearest("nothing.alike"), None);
    }
}
