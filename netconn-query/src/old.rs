//! Field names of S1QL 1.0 with today's names, and the shortcuts for several fields.

/// What became of a field of S1QL 1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldField {
    /// The field has this name today.
    Now(&'static str),
    /// The field is about something that netconn does not record.
    NotRecorded,
}

/// Fields of S1QL 1.0 and of Deep Visibility before it. Case is ignored, because published queries differ in it.
const FIELDS: [(&str, &str); 43] = [
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
    // A storyline groups what belongs to a process; here the process is what groups events.
    ("src.process.storyline.id", "src.process.uid"),
    ("src.process.parent.storyline.id", "src.process.parent.uid"),
];

/// Names so short that other languages use them too: only as S1QL wrote them.
const SHORT_FIELDS: [(&str, &str); 3] =
    [("PID", "src.process.pid"), ("Tid", "src.process.tid"), ("User", "src.process.user")];

/// Beginnings of the other field names of S1QL 1.0 and of Deep Visibility.
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

/// Shortcuts, and the fields that each stands for.
const SHORTCUTS: [(&str, &[&str]); 7] = [
    ("ip", &["src.ip.address", "dst.ip.address", "local.ip.address", "remote.ip.address"]),
    ("name", &["src.process.name", "src.process.parent.name"]),
    ("cmdline", &["src.process.cmdline", "src.process.parent.cmdline"]),
    ("username", &["src.process.user"]),
    ("dns", &["event.dns.request", "event.dns.response"]),
    ("filepath", &["src.process.image.path", "src.process.parent.image.path"]),
    ("uid", &["src.process.uid", "src.process.parent.uid"]),
];

/// Returns what became of a field of S1QL 1.0; `None` if the name is not one.
pub fn field(name: &str) -> Option<OldField> {
    // Exact case for the short names, any case for the others.
    let short = SHORT_FIELDS.iter().find(|(old, _)| *old == name);
    if let Some((_, now)) = short.or_else(|| FIELDS.iter().find(|(old, _)| old.eq_ignore_ascii_case(name))) {
        return Some(OldField::Now(now));
    }
    // `get` and not a slice: the name may be shorter, or have a character across that byte.
    let starts = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    // Names of today have dots, so a field such as `SrcProcess.x` is not taken for an old one.
    let is_one_word = name.chars().all(|character| character.is_ascii_alphanumeric());
    (is_one_word && NOT_RECORDED.iter().any(starts)).then_some(OldField::NotRecorded)
}

/// Returns the fields that `#name` stands for.
pub fn shortcut(name: &str) -> Option<&'static [&'static str]> {
    SHORTCUTS.iter().find(|(shortcut, _)| *shortcut == name).map(|(_, fields)| *fields)
}

/// Returns the names of all shortcuts, without the `#`.
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
