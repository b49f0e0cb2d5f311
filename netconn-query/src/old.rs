//! Names of S1QL 1.0, with those of today, and the shortcuts for several fields.

/// What is known of a name of S1QL 1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldField {
    /// It is called so today.
    Now(&'static str),
    /// It told of something that netconn does not record.
    NotRecorded,
}

/// Fields of S1QL 1.0 and of Deep Visibility before it. Upper and lower case do not matter, for published queries differ.
const FIELDS: [(&str, &str); 41] = [
    ("EventType", "event.type"),
    ("ObjectType", "event.category"),
    ("EventTime", "event.time"),
    ("EventId", "event.id"),
    ("NetConnStatus", "event.network.connectionStatus"),
    ("NetEventDirection", "event.network.direction"),
    ("NetProtocolName", "event.network.protocolName"),
    ("SrcIP", "src.ip.address"),
    ("SrcPort", "src.port.number"),
    ("DstIP", "dst.ip.address"),
    ("DstPort", "dst.port.number"),
    ("DnsRequest", "event.dns.request"),
    ("DnsResponse", "event.dns.response"),
    ("SrcProcName", "src.process.name"),
    ("SrcProcPID", "src.process.pid"),
    ("SrcProcTID", "src.process.tid"),
    ("SrcProcUID", "src.process.uid"),
    ("SrcProcUser", "src.process.user"),
    ("SrcProcImagePath", "src.process.image.path"),
    ("SrcProcCmdLine", "src.process.cmdline"),
    ("SrcProcStartTime", "src.process.startTime"),
    ("SrcProcParentName", "src.process.parent.name"),
    ("SrcProcParentPID", "src.process.parent.pid"),
    ("SrcProcParentUID", "src.process.parent.uid"),
    ("SrcProcParentImagePath", "src.process.parent.image.path"),
    ("SrcProcParentCmdLine", "src.process.parent.cmdline"),
    ("ProcessName", "src.process.name"),
    ("ProcessCmd", "src.process.cmdline"),
    ("ProcessImagePath", "src.process.image.path"),
    ("ProcessStartTime", "src.process.startTime"),
    ("ProcessUniqueKey", "src.process.uid"),
    ("ParentPID", "src.process.parent.pid"),
    ("ParentProcessName", "src.process.parent.name"),
    ("ParentProcessUniqueKey", "src.process.parent.uid"),
    ("EndpointName", "endpoint.name"),
    ("EndpointOS", "endpoint.os"),
    ("AgentName", "endpoint.name"),
    ("AgentOS", "endpoint.os"),
    ("AgentUUID", "agent.uuid"),
    ("AgentVersion", "agent.version"),
    ("SiteId", "site.id"),
];

/// The same for names so short that others use them too: only as they were written in S1QL.
const SHORT_FIELDS: [(&str, &str); 3] =
    [("PID", "src.process.pid"), ("Tid", "src.process.tid"), ("User", "src.process.user")];

/// What the other fields of S1QL 1.0 and of Deep Visibility are called, or begin with.
const NOT_RECORDED: [&str; 29] = [
    "SrcProc",
    "TgtProc",
    "TgtFile",
    "OsSrcProc",
    "CrossProc",
    "RegistryKey",
    "RegistryPath",
    "RegistryValue",
    "RegistryOld",
    "RegistryID",
    "FileFullName",
    "FileMD5",
    "FileSHA",
    "FileCreatedAt",
    "FileModifyAt",
    "FileID",
    "ModulePath",
    "ModuleMd5",
    "ModuleSha",
    "IndicatorName",
    "IndicatorCategory",
    "IndicatorDescription",
    "IndicatorMetadata",
    "NamedPipe",
    "NetworkUrl",
    "NetworkMethod",
    "TaskName",
    "TaskPath",
    "UrlAction",
];

/// A shortcut: the fields that it stands for.
const SHORTCUTS: [(&str, &[&str]); 7] = [
    ("ip", &["src.ip.address", "dst.ip.address", "local.ip.address", "remote.ip.address"]),
    ("name", &["src.process.name", "src.process.parent.name"]),
    ("cmdline", &["src.process.cmdline", "src.process.parent.cmdline"]),
    ("username", &["src.process.user"]),
    ("dns", &["event.dns.request", "event.dns.response"]),
    ("filepath", &["src.process.image.path", "src.process.parent.image.path"]),
    ("uid", &["src.process.uid", "src.process.parent.uid"]),
];

/// What a name of S1QL 1.0 is today; `None` if it is no such name.
pub fn field(name: &str) -> Option<OldField> {
    let short = SHORT_FIELDS.iter().find(|(old, _)| *old == name);
    if let Some((_, now)) = short.or_else(|| FIELDS.iter().find(|(old, _)| old.eq_ignore_ascii_case(name))) {
        return Some(OldField::Now(now));
    }
    let starts = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let is_one_word = name.chars().all(|character| character.is_ascii_alphanumeric());
    (is_one_word && NOT_RECORDED.iter().any(starts)).then_some(OldField::NotRecorded)
}

/// The fields that `#name` stands for.
pub fn shortcut(name: &str) -> Option<&'static [&'static str]> {
    SHORTCUTS.iter().find(|(shortcut, _)| *shortcut == name).map(|(_, fields)| *fields)
}

/// Names of all shortcuts, without the `#`.
pub fn shortcuts() -> impl Iterator<Item = &'static str> {
    SHORTCUTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_fields_have_their_names_of_today() {
        assert_eq!(field("SrcProcName"), Some(OldField::Now("src.process.name")));
        assert_eq!(field("srcprocCmdline"), Some(OldField::Now("src.process.cmdline")));
        assert_eq!(field("User"), Some(OldField::Now("src.process.user")));
        assert_eq!(field("user"), None, "may be a field of other files");
        assert_eq!(field("TgtProcName"), Some(OldField::NotRecorded));
        assert_eq!(field("SrcProcSha1"), Some(OldField::NotRecorded));
        assert_eq!(field("src.process.name"), None);
        assert_eq!(field("FileFullName"), Some(OldField::NotRecorded));
        assert_eq!(field("Registry"), None);
        assert_eq!(field("ä"), None);
    }

    #[test]
    fn todays_names_are_fields() {
        let known = |name: &str| netconn_model::field::by_name(name).is_some();
        for (old, now) in FIELDS.iter().chain(&SHORT_FIELDS) {
            assert!(known(now) || now.starts_with("event.dns."), "{old} -> {now}");
        }
        for (name, fields) in SHORTCUTS {
            assert!(fields.iter().all(|field| known(field)) || name == "dns", "{name}");
        }
    }
}
