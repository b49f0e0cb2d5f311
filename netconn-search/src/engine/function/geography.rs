//! Looks up where an address is, in a database in MaxMind's format.

use std::{net::IpAddr, path::Path, sync::Arc};

use maxminddb::{Reader, geoip2};
use netconn_query::{address::address, function::Place, value::Value};

use crate::engine::error::{Result, SearchError};

/// A database, opened once for all queries of a process.
pub(crate) type Database = Arc<Reader<Vec<u8>>>;

/// Opens a database.
pub(crate) fn open(path: &Path) -> Result<Reader<Vec<u8>>> {
    Reader::open_readfile(path).map_err(|error| SearchError::Format {
        path: path.to_owned(),
        why: format!("it is not an MMDB file ({error})"),
    })
}

/// Returns what the database says of an address, in English or in the language with the given code; missing if it says
/// nothing.
pub(crate) fn look_up<'a>(
    reader: &Reader<Vec<u8>>,
    place: Place,
    value: &Value<'_>,
    language: Option<&Value<'_>>,
) -> Value<'a> {
    let address: Option<IpAddr> = value.text().and_then(|text| address(&text));
    // An address that the database lacks and an entry that cannot be decoded look the same to a query: missing.
    let Some(city) = address.and_then(|address| reader.lookup(address).ok()?.decode::<geoip2::City<'_>>().ok()?) else {
        return Value::Null;
    };
    let language = language.and_then(Value::text);
    let name = |names: &geoip2::Names<'_>| {
        // The format has these eight languages and no others. An unknown code gets English rather than nothing.
        let name = match language.as_deref() {
            Some("de") => names.german,
            Some("es") => names.spanish,
            Some("fr") => names.french,
            Some("ja") => names.japanese,
            Some("pt-BR") => names.brazilian_portuguese,
            Some("ru") => names.russian,
            Some("zh-CN") => names.simplified_chinese,
            _ => names.english,
        };
        name.map_or(Value::Null, Value::owned)
    };
    let code = |code: Option<&str>| code.map_or(Value::Null, Value::owned);
    // Subdivisions go from large to small; the first is the state.
    let state = city.subdivisions.first();
    match place {
        Place::Country => name(&city.country.names),
        Place::CountryIso => code(city.country.iso_code),
        Place::City => name(&city.city.names),
        Place::State => state.map_or(Value::Null, |state| name(&state.names)),
        Place::StateIso => code(state.and_then(|state| state.iso_code)),
        Place::Continent => name(&city.continent.names),
        Place::ContinentCode => code(city.continent.code),
        Place::Location => match (city.location.latitude, city.location.longitude) {
            (Some(latitude), Some(longitude)) => Value::owned(format!("{latitude},{longitude}")),
            _ => Value::Null,
        },
    }
}
