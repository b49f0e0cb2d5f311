//! The code of each plain function of the language, and of functions that only plans use. Names and arities are in the
//! catalogue of the language.

use std::hash::{Hash, Hasher};

use super::{Patterns, array, date, format, network, number, place, text, time};
use crate::{
    catalogue::PlainId,
    value::{Value, ValueKind},
};

/// Kind of a function's result, by the kinds of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// Always this.
    Kind(ValueKind),
    /// Whole numbers if all arguments are, else numbers.
    Numeric,
    /// The kind of its first argument.
    First,
    /// The kind of the elements of its only argument, else as `Numeric`.
    Extreme,
    /// Whole numbers if the elements of its first argument are, else numbers.
    Total,
    /// The kind of the elements of its first argument.
    Element,
    /// Arrays of the kind that holds all arguments.
    ListOfAll,
    /// Arrays of the kind that holds the elements of all arguments; a text if no argument is an array.
    Concat,
    /// Arrays of the kind that holds the elements of its first argument and its third one.
    WithThird,
}

/// How a function computes its value for a row.
#[derive(Clone, Copy)]
pub enum Run {
    /// From its arguments alone.
    Values(for<'a> fn(&[Value<'a>]) -> Value<'a>),
    /// With compiled patterns, which live longer than a row.
    Patterns(for<'a> fn(&dyn Patterns, &[Value<'a>]) -> Value<'a>),
    /// From the database of places (MMDB).
    Geography(Place),
}

/// What the database of places can be asked of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Place {
    Country,
    CountryIso,
    City,
    State,
    StateIso,
    Continent,
    ContinentCode,
    Location,
}

/// A function that computes a value for each row.
#[derive(Clone, Copy)]
pub struct RowFunction {
    /// Name in plans; it begins with `_` if queries cannot call the function.
    pub name: &'static str,
    /// Kind of the result.
    pub returns: Returns,
    /// The code.
    pub run: Run,
    /// Whether the second argument is a regular expression, which is checked before the query runs.
    pub has_regex: bool,
    /// Whether its only argument has to be an array: other values are aggregated in `group`.
    pub is_of_elements: bool,
}

/// By name: each function has its own.
impl PartialEq for RowFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RowFunction {}

impl Hash for RowFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl RowFunction {
    // The name comes from the catalogue, so that it is written once.
    const fn of(id: PlainId, returns: Returns, run: Run) -> Self {
        Self::internal(id.info().name, returns, run)
    }

    const fn with_regex(id: PlainId, returns: Returns, run: Run) -> Self {
        Self { has_regex: true, ..Self::of(id, returns, run) }
    }

    const fn of_elements(id: PlainId, returns: Returns, run: Run) -> Self {
        Self { is_of_elements: true, ..Self::of(id, returns, run) }
    }

    const fn internal(name: &'static str, returns: Returns, run: Run) -> Self {
        Self { name, returns, run, has_regex: false, is_of_elements: false }
    }
}

/// A function that the planner replaces by something else, because it needs the searched time or has a lambda.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Planned {
    Timebucket,
    QueryStart,
    QueryEnd,
    QuerySpan,
    Now,
    Lambda(LambdaKind),
}

/// How a function with a lambda uses the results of the lambda.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LambdaKind {
    /// An array of the results.
    Map,
    /// The elements whose result is true.
    Filter,
    /// Whether a result is true.
    Any,
    /// Whether all results are true.
    All,
    /// The last result of a lambda of the result before and an element.
    Reduce,
    /// An array of the results of a lambda of elements at the same place.
    Zip,
}

/// How the engine evaluates a plain function.
pub enum Code {
    /// Row by row.
    Row(RowFunction),
    /// By a plan of its own.
    Planned(Planned),
}

const BOOL: Returns = Returns::Kind(ValueKind::Bool);
const INTEGER: Returns = Returns::Kind(ValueKind::Integer);
const NUMBER: Returns = Returns::Kind(ValueKind::Number);
const TEXT: Returns = Returns::Kind(ValueKind::Text);
const TIME: Returns = Returns::Kind(ValueKind::Time);
const TEXTS: Returns = Returns::Kind(ValueKind::List(&ValueKind::Text));

/// Number or text as a moment.
pub const MOMENT: RowFunction = RowFunction::internal("_moment", TIME, Run::Values(time::moment));
/// Span of time in nanoseconds.
pub const SPAN: RowFunction = RowFunction::internal("_span", INTEGER, Run::Values(time::span));
/// -1, 0 or 1: how two texts are ordered, addresses by their bytes.
pub const ORDER: RowFunction = RowFunction::internal("_order", INTEGER, Run::Values(network::order));
/// Address in its usual form; any other text as it is.
pub const ADDRESS: RowFunction = RowFunction::internal("_address", TEXT, Run::Values(network::usual));
/// Distinct values of an array, sorted and joined.
pub const HACKLIST: RowFunction = RowFunction::internal("_hacklist", TEXT, Run::Values(array::hacklist));
/// Numbers of the places of an array.
pub const PLACES: RowFunction =
    RowFunction::internal("_places", Returns::Kind(ValueKind::List(&ValueKind::Integer)), Run::Values(array::places));
/// First elements of an array.
pub const CUT: RowFunction = RowFunction::internal("_cut", Returns::First, Run::Values(array::cut));
/// Group of the first match of a regular expression.
pub const EXTRACT: RowFunction = RowFunction::internal("_extract", TEXT, Run::Patterns(text::extract));
/// Whether a pattern that differs from row to row fits.
pub const MATCH: RowFunction = RowFunction::internal("_match", BOOL, Run::Patterns(text::matches));
/// `contains`, which plans also call for other expressions.
pub const CONTAINS: RowFunction = RowFunction::of(PlainId::Contains, BOOL, Run::Values(array::contains));
/// `string`, which plans also call for other expressions.
pub const AS_TEXT: RowFunction = RowFunction::of(PlainId::String, TEXT, Run::Values(text::string));
/// `number`, which plans also call for other expressions.
pub const AS_NUMBER: RowFunction = RowFunction::of(PlainId::Number, NUMBER, Run::Values(text::number));
/// `net_ipsubnet`, which plans also call for other expressions.
pub const NET_IPSUBNET: RowFunction = RowFunction::of(PlainId::NetIpsubnet, BOOL, Run::Patterns(network::net_ipsubnet));

/// Returns the code of a function of the language.
#[rustfmt::skip] // a table: one row, one line
pub fn code(id: PlainId) -> Code {
    // Exhaustive, so that a new row of the catalogue does not compile without code.
    Code::Row(match id {
        PlainId::Abs => RowFunction::of(id, Returns::Numeric, Run::Values(number::abs)),
        PlainId::Ceiling => RowFunction::of(id, INTEGER, Run::Values(number::ceiling)),
        PlainId::Floor => RowFunction::of(id, INTEGER, Run::Values(number::floor)),
        PlainId::Min => RowFunction::of_elements(id, Returns::Extreme, Run::Values(number::min)),
        PlainId::Max => RowFunction::of_elements(id, Returns::Extreme, Run::Values(number::max)),
        PlainId::Sum => RowFunction::of_elements(id, Returns::Total, Run::Values(array::sum)),
        PlainId::Mean => RowFunction::of_elements(id, NUMBER, Run::Values(array::mean)),
        PlainId::Median => RowFunction::of_elements(id, NUMBER, Run::Values(array::median)),
        PlainId::Sqrt => RowFunction::of(id, NUMBER, Run::Values(number::sqrt)),
        PlainId::Exp => RowFunction::of(id, NUMBER, Run::Values(number::exp)),
        PlainId::Ln => RowFunction::of(id, NUMBER, Run::Values(number::ln)),
        PlainId::Log => RowFunction::of(id, NUMBER, Run::Values(number::log)),
        PlainId::Pow => RowFunction::of(id, NUMBER, Run::Values(number::pow)),
        PlainId::Len => RowFunction::of(id, INTEGER, Run::Values(text::len)),
        PlainId::Lower => RowFunction::of(id, TEXT, Run::Values(text::lower)),
        PlainId::Upper => RowFunction::of(id, TEXT, Run::Values(text::upper)),
        PlainId::Trim => RowFunction::of(id, TEXT, Run::Values(text::trim)),
        PlainId::Ltrim => RowFunction::of(id, TEXT, Run::Values(text::ltrim)),
        PlainId::Rtrim => RowFunction::of(id, TEXT, Run::Values(text::rtrim)),
        PlainId::Substr => RowFunction::of(id, TEXT, Run::Values(text::substr)),
        PlainId::Isempty => RowFunction::of(id, BOOL, Run::Values(text::isempty)),
        PlainId::Isblank => RowFunction::of(id, BOOL, Run::Values(text::isblank)),
        PlainId::Bool => RowFunction::of(id, BOOL, Run::Values(text::bool)),
        PlainId::String => AS_TEXT,
        PlainId::Number => AS_NUMBER,
        PlainId::Replace => RowFunction::with_regex(id, TEXT, Run::Patterns(text::replace)),
        PlainId::ReplaceMatchcase => RowFunction::with_regex(id, TEXT, Run::Patterns(text::replace_matchcase)),
        PlainId::PadVersion => RowFunction::of(id, TEXT, Run::Values(text::pad_version)),
        PlainId::ExtractMatches => RowFunction::with_regex(id, TEXTS, Run::Patterns(text::extract_matches)),
        PlainId::ExtractMatchesMatchcase => {
            RowFunction::with_regex(id, TEXTS, Run::Patterns(text::extract_matches_matchcase))
        }
        PlainId::Format => RowFunction::of(id, TEXT, Run::Values(format::format)),
        PlainId::JsonObjectValue => RowFunction::of(id, TEXT, Run::Values(text::json_object_value)),
        PlainId::NetIp => RowFunction::of(id, BOOL, Run::Values(network::net_ip)),
        PlainId::NetIpv4 => RowFunction::of(id, BOOL, Run::Values(network::net_ipv4)),
        PlainId::NetIpv6 => RowFunction::of(id, BOOL, Run::Values(network::net_ipv6)),
        PlainId::NetIpsubnet => NET_IPSUBNET,
        PlainId::NetPrivate => RowFunction::of(id, BOOL, Run::Values(network::net_private)),
        PlainId::NetOutside => RowFunction::of(id, BOOL, Run::Values(network::net_outside)),
        PlainId::NetRfc1918 => RowFunction::of(id, BOOL, Run::Values(network::net_rfc1918)),
        PlainId::NetRfc4193 => RowFunction::of(id, BOOL, Run::Values(network::net_rfc4193)),
        PlainId::NetUrlScheme => RowFunction::of(id, TEXT, Run::Values(network::net_url_scheme)),
        PlainId::NetUrlNetloc => RowFunction::of(id, TEXT, Run::Values(network::net_url_netloc)),
        PlainId::NetUrlDomain => RowFunction::of(id, TEXT, Run::Values(network::net_url_domain)),
        PlainId::NetUrlUserinfo => RowFunction::of(id, TEXT, Run::Values(network::net_url_userinfo)),
        PlainId::NetUrlSubdomain => RowFunction::of(id, TEXT, Run::Values(network::net_url_subdomain)),
        PlainId::NetUrlPort => RowFunction::of(id, INTEGER, Run::Values(network::net_url_port)),
        PlainId::NetUrlTld => RowFunction::of(id, TEXT, Run::Values(network::net_url_tld)),
        PlainId::NetUrlPath => RowFunction::of(id, TEXT, Run::Values(network::net_url_path)),
        PlainId::NetUrlQuery => RowFunction::of(id, TEXT, Run::Values(network::net_url_query)),
        PlainId::NetUrlFragment => RowFunction::of(id, TEXT, Run::Values(network::net_url_fragment)),
        PlainId::NetUrlParts => RowFunction::of(id, TEXTS, Run::Values(network::net_url_parts)),
        PlainId::Array => RowFunction::of(id, Returns::ListOfAll, Run::Values(array::array)),
        PlainId::ArrayGet => RowFunction::of(id, Returns::Element, Run::Values(array::get)),
        PlainId::Get => RowFunction::of(id, Returns::Element, Run::Values(array::get)),
        PlainId::ArrayToString => RowFunction::of(id, TEXT, Run::Values(array::to_string)),
        PlainId::Split => RowFunction::with_regex(id, TEXTS, Run::Patterns(text::split)),
        PlainId::SplitMatchcase => RowFunction::with_regex(id, TEXTS, Run::Patterns(text::split_matchcase)),
        PlainId::ArrayFromJson => RowFunction::of(id, TEXTS, Run::Values(array::from_json)),
        PlainId::ArrayToJson => RowFunction::of(id, TEXT, Run::Values(array::to_json)),
        PlainId::Contains => CONTAINS,
        PlainId::Distinct => RowFunction::of(id, Returns::First, Run::Values(array::distinct)),
        PlainId::Sort => RowFunction::of(id, Returns::First, Run::Values(array::sort)),
        PlainId::SortDesc => RowFunction::of(id, Returns::First, Run::Values(array::sort_desc)),
        PlainId::Set => RowFunction::of(id, Returns::WithThird, Run::Values(array::set)),
        PlainId::Intersect => RowFunction::of(id, Returns::First, Run::Values(array::intersect)),
        PlainId::Slice => RowFunction::of(id, Returns::First, Run::Values(array::slice)),
        PlainId::Concat => RowFunction::of(id, Returns::Concat, Run::Values(array::concat)),
        PlainId::Strftime => RowFunction::of(id, TEXT, Run::Values(time::strftime)),
        PlainId::Strptime => RowFunction::of(id, TIME, Run::Values(time::strptime)),
        PlainId::Simpledateformat => RowFunction::of(id, TEXT, Run::Values(date::simpledateformat)),
        PlainId::Simpledateparse => RowFunction::of(id, TIME, Run::Values(date::simpledateparse)),
        PlainId::GeoDistance => RowFunction::of(id, NUMBER, Run::Values(place::geo_distance)),
        PlainId::GeoIsPoint => RowFunction::of(id, BOOL, Run::Values(place::geo_is_point)),
        PlainId::GeoIpCountry => RowFunction::of(id, TEXT, Run::Geography(Place::Country)),
        PlainId::GeoIpCountryIso => RowFunction::of(id, TEXT, Run::Geography(Place::CountryIso)),
        PlainId::GeoIpCity => RowFunction::of(id, TEXT, Run::Geography(Place::City)),
        PlainId::GeoIpState => RowFunction::of(id, TEXT, Run::Geography(Place::State)),
        PlainId::GeoIpStateIso => RowFunction::of(id, TEXT, Run::Geography(Place::StateIso)),
        PlainId::GeoIpContinent => RowFunction::of(id, TEXT, Run::Geography(Place::Continent)),
        PlainId::GeoIpContinentCode => RowFunction::of(id, TEXT, Run::Geography(Place::ContinentCode)),
        PlainId::GeoIpLocation => RowFunction::of(id, TEXT, Run::Geography(Place::Location)),
        PlainId::Timebucket => return Code::Planned(Planned::Timebucket),
        PlainId::Querystart => return Code::Planned(Planned::QueryStart),
        PlainId::Queryend => return Code::Planned(Planned::QueryEnd),
        PlainId::Queryspan => return Code::Planned(Planned::QuerySpan),
        PlainId::Now => return Code::Planned(Planned::Now),
        PlainId::Map => return Code::Planned(Planned::Lambda(LambdaKind::Map)),
        PlainId::Filter | PlainId::ArrayFilter => return Code::Planned(Planned::Lambda(LambdaKind::Filter)),
        PlainId::MatchAny => return Code::Planned(Planned::Lambda(LambdaKind::Any)),
        PlainId::MatchAll => return Code::Planned(Planned::Lambda(LambdaKind::All)),
        PlainId::Reduce => return Code::Planned(Planned::Lambda(LambdaKind::Reduce)),
        PlainId::Zip => return Code::Planned(Planned::Lambda(LambdaKind::Zip)),
    })
}

impl Returns {
    /// The kind of the result.
    pub fn of(self, arguments: &[ValueKind]) -> ValueKind {
        let first = arguments.first().copied().unwrap_or(ValueKind::Null);
        match self {
            Self::Kind(kind) => kind,
            Self::Numeric if arguments.iter().all(|kind| matches!(kind, ValueKind::Integer | ValueKind::Bool)) => {
                ValueKind::Integer
            }
            // Texts and moments count as floats in arithmetic.
            Self::Numeric => ValueKind::Number,
            Self::Extreme => match arguments {
                [ValueKind::List(element)] => **element,
                _ => Self::Numeric.of(arguments),
            },
            Self::Total => match first {
                ValueKind::List(ValueKind::Integer | ValueKind::Bool) => ValueKind::Integer,
                _ => ValueKind::Number,
            },
            Self::WithThird => match (first, arguments.get(2)) {
                (ValueKind::List(element), Some(third)) => ValueKind::list(element.with(*third)),
                _ => first,
            },
            Self::First => first,
            Self::Element => match first {
                ValueKind::List(element) => *element,
                // The first argument is no array, so the function returns a missing value; a column needs a kind all
                // the same.
                _ => ValueKind::Text,
            },
            Self::ListOfAll => ValueKind::list(common(arguments.iter().copied())),
            Self::Concat if arguments.iter().any(|kind| matches!(kind, ValueKind::List(_))) => {
                ValueKind::list(common(arguments.iter().map(|kind| match kind {
                    ValueKind::List(element) => **element,
                    kind => *kind,
                })))
            }
            Self::Concat => ValueKind::Text,
        }
    }
}

/// Whether these arguments are what a function of elements takes: an array alone, or several values.
pub fn takes_elements(arguments: &[ValueKind]) -> bool {
    !matches!(arguments, [kind] if !matches!(kind, ValueKind::List(_) | ValueKind::Null))
}

/// Says that a function of elements has another argument.
pub fn wants_elements(name: &str) -> String {
    format!("outside of group and top, {name} takes an array: {name} of many rows can only stand in group or top")
}

fn common(kinds: impl Iterator<Item = ValueKind>) -> ValueKind {
    kinds.reduce(ValueKind::with).unwrap_or(ValueKind::Null)
}

impl std::fmt::Debug for RowFunction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}
