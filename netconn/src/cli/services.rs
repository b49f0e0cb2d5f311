//! Names of services in place of port numbers, as in `/etc/services`.

use std::{fs, sync::OnceLock};

/// The names that this machine knows.
const FILE: &str = "/etc/services";

/// Names that everybody types, with their ports as IANA has assigned them
/// (<https://www.iana.org/assignments/service-names-port-numbers>): small machines and containers have no file.
const COMMON: &[(&str, u16)] = &[
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("dns", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("ntp", 123),
    ("imap2", 143),
    ("snmp", 161),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submissions", 465),
    ("syslog", 514),
    ("submission", 587),
    ("ldaps", 636),
    ("domain-s", 853),
    ("imaps", 993),
    ("pop3s", 995),
    ("nfs", 2049),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("postgresql", 5432),
    ("mdns", 5353),
];

/// Returns the ports of a service: some services have others for UDP than for TCP.
///
/// # Errors
///
/// When no service has this name: a sentence for the user.
pub(super) fn ports(name: &str) -> Result<Vec<u16>, String> {
    // Read once: a filter may have many names.
    static FILE_TEXT: OnceLock<String> = OnceLock::new();
    let text = FILE_TEXT.get_or_init(|| fs::read_to_string(FILE).unwrap_or_default());
    let found = ports_in(text, name);
    if !found.is_empty() {
        return Ok(found);
    }
    let common = COMMON.iter().filter(|(common, _)| common.eq_ignore_ascii_case(name));
    let found: Vec<u16> = common.map(|(_, port)| *port).collect();
    if found.is_empty() {
        return Err(format!("'{name}' is not a port, a range like 8000-8100 or a service of {FILE}"));
    }
    Ok(found)
}

/// Returns the ports of a service in the text of a file: `NAME PORT/PROTOCOL ALIAS… # COMMENT`.
fn ports_in(text: &str, name: &str) -> Vec<u16> {
    let mut found: Vec<u16> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let (first, port) = (words.next()?, words.next()?);
            let is_it = std::iter::once(first).chain(words).any(|word| word.eq_ignore_ascii_case(name));
            is_it.then(|| port.split('/').next()?.parse().ok())?
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Returns a parameter's value with names of services as numbers; `!` before a name stays before each of its ports.
///
/// # Errors
///
/// The first word that is neither a number, a range nor a service.
pub(super) fn as_numbers(values: &str) -> Result<String, String> {
    let mut numbers: Vec<String> = Vec::new();
    for given in values.split(',').map(str::trim) {
        let (not, value) = given.strip_prefix('!').map_or(("", given), |value| ("!", value.trim_start()));
        // Names of services have a letter (RFC 6335, 5.1): all else is left to the filter, which says what is wrong.
        if value.contains(|character: char| character.is_ascii_alphabetic()) {
            numbers.extend(ports(value)?.iter().map(|port| format!("{not}{port}")));
        } else {
            numbers.push(given.to_owned());
        }
    }
    Ok(numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias() {
        let text = "# heading\nssh\t22/tcp  # SSH\nhttp 80/tcp www\nexec 512/tcp\nbiff 512/udp comsat\nrpc 111/tcp\nrpc 112/udp\n";
        assert_eq!(ports_in(text, "www"), [80]);
        assert_eq!(ports_in(text, "SSH"), [22]);
        assert_eq!(ports_in(text, "rpc"), [111, 112]);
        assert_eq!(ports_in(text, "22/tcp"), [0; 0]);
        assert_eq!(ports_in(text, "heading"), [0; 0]);
    }

    #[test]
    fn names_become_numbers() {
        assert_eq!(as_numbers("https, 22,!ssh,8000-8100").as_deref(), Ok("443,22,!22,8000-8100"));
        assert_eq!(as_numbers("9-8").as_deref(), Ok("9-8"), "left to the filter");
        let error = as_numbers("443,no-such").unwrap_err();
        assert!(error.starts_with("'no-such' is not a port, a range like 8000-8100 or a service of "), "{error}");
    }
}
