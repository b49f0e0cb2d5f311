//! The table of functions: names, arguments, what they give.

use super::{
    array,
    call::Call,
    format,
    geography::{self, Place},
    network, number, text, time,
    value::{Kind, Value},
};

/// What a function gives, by what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    /// Always this.
    Kind(Kind),
    /// Whole numbers if all arguments are, else numbers.
    Numeric,
    /// The kind of its first argument.
    First,
    /// The kind of the elements of its first argument.
    Element,
    /// Arrays of what all arguments have in common.
    ListOfAll,
    /// Arrays of what the arrays have in common; a text if there is none.
    Concat,
}

/// How a function is worked out.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// From its arguments alone.
    Values(for<'a> fn(&[Value<'a>]) -> Value<'a>),
    /// With what is kept between the rows of a batch.
    Call(for<'a> fn(&Call<'_>, &[Value<'a>]) -> Value<'a>),
    /// From the database of places.
    Geography(Place),
}

/// One function.
pub(crate) struct Function {
    /// Its name; those that begin with `_` are not for queries.
    pub(crate) name: &'static str,
    /// Fewest arguments.
    pub(crate) least: usize,
    /// Most arguments.
    pub(crate) most: usize,
    /// What it gives.
    pub(crate) returns: Returns,
    /// How.
    pub(crate) run: Run,
    /// Which argument is a regular expression: it is checked before the query runs.
    pub(crate) regex: Option<usize>,
}

/// Any number of arguments.
const ANY: usize = 64;

const BOOL: Returns = Returns::Kind(Kind::Bool);
const INTEGER: Returns = Returns::Kind(Kind::Integer);
const NUMBER: Returns = Returns::Kind(Kind::Number);
const TEXT: Returns = Returns::Kind(Kind::Text);
const TIME: Returns = Returns::Kind(Kind::Time);
const TEXTS: Returns = Returns::Kind(Kind::List(&Kind::Text));

const fn plain(
    name: &'static str,
    least: usize,
    most: usize,
    returns: Returns,
    run: for<'a> fn(&[Value<'a>]) -> Value<'a>,
) -> Function {
    Function { name, least, most, returns, run: Run::Values(run), regex: None }
}

const fn place(name: &'static str, place: Place, returns: Returns) -> Function {
    Function { name, least: 1, most: 2, returns, run: Run::Geography(place), regex: None }
}

const fn kept(
    name: &'static str,
    least: usize,
    most: usize,
    returns: Returns,
    run: for<'a> fn(&Call<'_>, &[Value<'a>]) -> Value<'a>,
    regex: Option<usize>,
) -> Function {
    Function { name, least, most, returns, run: Run::Call(run), regex }
}

/// All functions that work row by row. `contains`, `timebucket` and the like are what the plan makes of other forms.
pub(crate) const FUNCTIONS: &[Function] = &[
    plain("abs", 1, 1, Returns::Numeric, number::abs),
    plain("ceiling", 1, 1, INTEGER, number::ceiling),
    plain("floor", 1, 1, INTEGER, number::floor),
    plain("min", 1, ANY, Returns::Numeric, number::min),
    plain("max", 1, ANY, Returns::Numeric, number::max),
    plain("sqrt", 1, 1, NUMBER, number::sqrt),
    plain("exp", 1, 1, NUMBER, number::exp),
    plain("ln", 1, 1, NUMBER, number::ln),
    plain("log", 1, 2, NUMBER, number::log),
    plain("pow", 2, 2, NUMBER, number::pow),
    plain("len", 1, 1, INTEGER, text::len),
    plain("lower", 1, 1, TEXT, text::lower),
    plain("upper", 1, 1, TEXT, text::upper),
    plain("trim", 1, 2, TEXT, text::trim),
    plain("ltrim", 1, 2, TEXT, text::ltrim),
    plain("rtrim", 1, 2, TEXT, text::rtrim),
    plain("substr", 2, 3, TEXT, text::substr),
    plain("isempty", 1, 1, BOOL, text::isempty),
    plain("isblank", 1, 1, BOOL, text::isblank),
    plain("bool", 1, 1, BOOL, text::bool),
    plain("string", 1, 1, TEXT, text::string),
    plain("number", 1, 1, NUMBER, text::number),
    kept("replace", 3, 3, TEXT, text::replace, Some(1)),
    kept("extract_matches", 2, 3, TEXTS, text::extract_matches, Some(1)),
    plain("format", 1, ANY, TEXT, format::format),
    plain("json_object_value", 2, 2, TEXT, text::json_object_value),
    plain("net_ip", 1, 1, BOOL, network::net_ip),
    plain("net_ipv4", 1, 1, BOOL, network::net_ipv4),
    plain("net_ipv6", 1, 1, BOOL, network::net_ipv6),
    kept("net_ipsubnet", 2, ANY, BOOL, network::net_ipsubnet, None),
    plain("net_private", 1, 1, BOOL, network::net_private),
    plain("net_rfc1918", 1, 1, BOOL, network::net_rfc1918),
    plain("net_rfc4193", 1, 1, BOOL, network::net_rfc4193),
    plain("net_url_scheme", 1, 1, TEXT, network::net_url_scheme),
    plain("net_url_netloc", 1, 1, TEXT, network::net_url_netloc),
    plain("net_url_domain", 1, 1, TEXT, network::net_url_domain),
    plain("net_url_userinfo", 1, 1, TEXT, network::net_url_userinfo),
    plain("net_url_subdomain", 1, 1, TEXT, network::net_url_subdomain),
    plain("net_url_port", 1, 1, INTEGER, network::net_url_port),
    plain("net_url_tld", 1, 1, TEXT, network::net_url_tld),
    plain("net_url_path", 1, 1, TEXT, network::net_url_path),
    plain("net_url_query", 1, 1, TEXT, network::net_url_query),
    plain("net_url_fragment", 1, 1, TEXT, network::net_url_fragment),
    plain("array", 0, ANY, Returns::ListOfAll, array::array),
    plain("array_get", 2, 2, Returns::Element, array::get),
    plain("get", 2, 2, Returns::Element, array::get),
    plain("array_to_string", 1, 2, TEXT, array::to_string),
    kept("split", 2, 3, TEXTS, text::split, Some(1)),
    plain("contains", 2, 2, BOOL, array::contains),
    plain("distinct", 1, 1, Returns::First, array::distinct),
    plain("sort", 1, 2, Returns::First, array::sort),
    plain("slice", 2, 3, Returns::First, array::slice),
    plain("concat", 1, ANY, Returns::Concat, array::concat),
    plain("strftime", 1, 3, TEXT, time::strftime),
    plain("strptime", 2, 2, TIME, time::strptime),
    place("geo_ip_country", Place::Country, TEXT),
    place("geo_ip_country_iso", Place::CountryIso, TEXT),
    place("geo_ip_city", Place::City, TEXT),
    place("geo_ip_state", Place::State, TEXT),
    place("geo_ip_state_iso", Place::StateIso, TEXT),
    place("geo_ip_continent", Place::Continent, TEXT),
    place("geo_ip_continent_code", Place::ContinentCode, TEXT),
    place("geo_ip_location", Place::Location, TEXT),
    plain("_moment", 1, 1, TIME, time::moment),
    plain("_order", 2, 2, INTEGER, network::order),
    plain("_hacklist", 1, 1, TEXT, array::hacklist),
    plain("_cut", 2, 2, Returns::First, array::cut),
    kept("_extract", 3, 3, TEXT, text::extract, Some(1)),
    kept("_match", 4, 4, BOOL, text::matches, None),
];

/// The function of that name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

impl Returns {
    /// The kind of the result.
    pub(crate) fn of(self, arguments: &[Kind]) -> Kind {
        let first = arguments.first().copied().unwrap_or(Kind::Null);
        match self {
            Self::Kind(kind) => kind,
            Self::Numeric if arguments.iter().all(|kind| matches!(kind, Kind::Integer | Kind::Bool)) => Kind::Integer,
            Self::Numeric => Kind::Number,
            Self::First => first,
            Self::Element => match first {
                Kind::List(element) => *element,
                _ => Kind::Text,
            },
            Self::ListOfAll => Kind::list(common(arguments.iter().copied())),
            Self::Concat if arguments.iter().any(|kind| matches!(kind, Kind::List(_))) => {
                Kind::list(common(arguments.iter().map(|kind| match kind {
                    Kind::List(element) => **element,
                    kind => *kind,
                })))
            }
            Self::Concat => Kind::Text,
        }
    }
}

fn common(kinds: impl Iterator<Item = Kind>) -> Kind {
    kinds.reduce(Kind::with).unwrap_or(Kind::Null)
}

impl std::fmt::Debug for Function {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

/// Opened once for all queries of a process.
pub(crate) type Database = std::sync::Arc<maxminddb::Reader<Vec<u8>>>;

impl Run {
    /// The value for one row.
    pub(crate) fn row<'a>(self, call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
        match self {
            Self::Values(run) => run(arguments),
            Self::Call(run) => run(call, arguments),
            Self::Geography(place) => match call.database() {
                Some(database) => geography::look_up(database, place, &arguments[0], arguments.get(1)),
                None => Value::Null,
            },
        }
    }
}
