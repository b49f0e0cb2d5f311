//! The table of functions: aggregates, functions over rows, and plain ones. It is the only place that has their names and
//! arities; an engine maps each id to its code by an exhaustive `match`, so that the compiler finds a function without code.

use super::{FunctionInfo, FunctionKind, MANY};

macro_rules! functions {
    ($($kind:ident $id:ident $explained:literal {
        $($variant:ident $name:literal ($least:tt, $most:tt) $usage:literal $meaning:literal $example:literal;)+
    })+) => {
        $(
            #[doc = $explained]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum $id {
                $(#[doc = $meaning] $variant,)+
            }

            impl $id {
                /// The functions of this kind, in the order of their ids.
                const TABLE: &[FunctionInfo] = &[$(FunctionInfo {
                    id: FunctionId::$kind($id::$variant),
                    name: $name,
                    kind: FunctionKind::$kind,
                    least: $least,
                    most: $most,
                    usage: $usage,
                    meaning: $meaning,
                    example: $example,
                }),+];

                /// Returns the table's entry of this function.
                pub const fn info(self) -> &'static FunctionInfo {
                    // The variants and the table come from the same rows in the same order, so the place always exists.
                    &Self::TABLE[self as usize]
                }

                /// Returns the function of this kind with this name.
                pub fn by_name(name: &str) -> Option<Self> {
                    // A `match` on texts instead of a walk over the table: the planner and the checker ask for each
                    // call.
                    match name {
                        $($name => Some(Self::$variant),)+
                        _ => None,
                    }
                }
            }
        )+

        /// Identifies a function of any kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FunctionId {
            $(#[doc = $explained] $kind($id),)+
        }

        /// All functions, by kind.
        pub const FUNCTIONS: &[&FunctionInfo] = &[$($($id::$variant.info()),+),+];
    };
}

#[rustfmt::skip] // a table: one row, one line
functions! {
    Aggregate AggregateId "A function over the rows of a group." {
        Count "count" (0, 1) "count([condition])" "Number of rows, or of rows for which the condition is true." "| group count() by event.type";
        Sum "sum" (1, 1) "sum(x)" "Sum; of booleans, the number of true ones." "| group sum(event.network.bytesSent) by dst.ip.address";
        Avg "avg" (1, 1) "avg(x)" "Arithmetic mean." "| group avg(event.network.rttUs) by dst.ip.address";
        Mean "mean" (1, 1) "mean(x)" "Arithmetic mean." "| group mean(event.network.rttUs) by dst.ip.address";
        Average "average" (1, 1) "average(x)" "Arithmetic mean." "| group average(event.network.rttUs) by dst.ip.address";
        Min "min" (1, 1) "min(x)" "Smallest value." "| group min(timestamp) by dst.ip.address";
        Max "max" (1, 1) "max(x)" "Largest value." "| group max(timestamp) by dst.ip.address";
        Median "median" (1, 1) "median(x)" "Middle value." "| group median(event.network.durationMs) by dst.port.number";
        Stddev "stddev" (1, 1) "stddev(x)" "Sample standard deviation." "| group stddev(event.network.durationMs) by dst.port.number";
        P10 "p10" (1, 1) "p10(x)" "Value that 10 % are below." "| group p10(event.network.rttUs)";
        P50 "p50" (1, 1) "p50(x)" "Value that 50 % are below." "| group p50(event.network.rttUs)";
        P90 "p90" (1, 1) "p90(x)" "Value that 90 % are below." "| group p90(event.network.rttUs)";
        P95 "p95" (1, 1) "p95(x)" "Value that 95 % are below." "| group p95(event.network.rttUs)";
        P99 "p99" (1, 1) "p99(x)" "Value that 99 % are below." "| group p99(event.network.rttUs)";
        P999 "p999" (1, 1) "p999(x)" "Value that 99.9 % are below." "| group p999(event.network.rttUs)";
        Pct "pct" (2, 2) "pct(N, x)" "Value that N % are below." "| group pct(75, event.network.rttUs)";
        Percentile "percentile" (2, 2) "percentile(x, N)" "Value that N % are below." "| group percentile(event.network.rttUs, 75)";
        EstimateDistinct "estimate_distinct" (1, 1) "estimate_distinct(x)" "Number of different values, estimated (HyperLogLog)." "| group estimate_distinct(dst.ip.address) by src.process.name";
        CountDistinct "count_distinct" (1, 1) "count_distinct(x)" "Number of different values, exact." "| group count_distinct(dst.ip.address) by src.process.name";
        ArrayAgg "array_agg" (1, 2) "array_agg(x[, n])" "All values, or the first n, as an array." "| group array_agg(dst.port.number, 20) by dst.ip.address";
        ArrayAggDistinct "array_agg_distinct" (1, 2) "array_agg_distinct(x[, n])" "All different values, or the first n, as an array." "| group array_agg_distinct(dst.port.number) by dst.ip.address";
        Any "any" (1, 1) "any(x)" "One of the values, whichever is read first." "| group any(src.process.image.path) by src.process.name";
        AnyTrue "any_true" (1, 1) "any_true(condition)" "Whether the condition is true for at least one row." "| group any_true(dst.port.number = 22) by dst.ip.address";
        AllTrue "all_true" (1, 1) "all_true(condition)" "Whether the condition is true for all rows." "| group all_true(dst.port.number = 22) by dst.ip.address";
        First "first" (1, 1) "first(x)" "Value of the first row." "| sort timestamp | group first(dst.ip.address) by src.process.name";
        Last "last" (1, 1) "last(x)" "Value of the last row." "| sort timestamp | group last(dst.ip.address) by src.process.name";
        Newest "newest" (1, 1) "newest(x)" "Value of the newest event." "| group newest(dst.ip.address) by src.process.name";
        Oldest "oldest" (1, 1) "oldest(x)" "Value of the oldest event." "| group oldest(dst.ip.address) by src.process.name";
        MinBy "min_by" (2, 2) "min_by(x, y)" "The x of the row with the smallest y." "| group min_by(dst.ip.address, timestamp) by src.process.name";
        MaxBy "max_by" (2, 2) "max_by(x, y)" "The x of the row with the largest y." "| group max_by(dst.ip.address, timestamp) by src.process.name";
        Hacklist "hacklist" (1, 1) "hacklist(x)" "All different values, joined into one text." "| group hacklist(dst.ip.address) by src.process.name";
    }
    Running RunningId "A function over a row and the rows before it, or over all rows." {
        RunningSum "running_sum" (1, 1) "running_sum(x)" "Sum of this row and the rows before it." "| group n = count() by event.type | let so_far = running_sum(n)";
        RunningCount "running_count" (0, 1) "running_count()" "Number of the row: 1, 2, 3, …" "| sort timestamp | let place = running_count()";
        RunningPercent "running_percent" (1, 1) "running_percent(x)" "Sum up to this row, in percent of the sum of all rows." "| group n = count() by event.type | sort -n | let share = running_percent(n)";
        PercentOfTotal "percent_of_total" (1, 1) "percent_of_total(x)" "Value of this row, in percent of the sum of all rows." "| group n = count() by event.type | let share = percent_of_total(n)";
        OverallSum "overall_sum" (1, 1) "overall_sum(x)" "Sum of all rows." "| group n = count() by event.type | let all = overall_sum(n)";
        OverallMin "overall_min" (1, 1) "overall_min(x)" "Smallest value of all rows." "| group n = count() by event.type | let least = overall_min(n)";
        OverallMax "overall_max" (1, 1) "overall_max(x)" "Largest value of all rows." "| group n = count() by event.type | let most = overall_max(n)";
        OverallAvg "overall_avg" (1, 1) "overall_avg(x)" "Mean of all rows." "| group n = count() by event.type | let mean = overall_avg(n)";
        Prev "prev" (1, 2) "prev(x[, n])" "Value of the row before, or of the n-th before." "event.type = 'IP Connect' | sort timestamp | let before = prev(event.time by src.process.uid)";
        Next "next" (1, 2) "next(x[, n])" "Value of the row behind, or of the n-th behind." "event.type = 'IP Connect' | sort timestamp | let then = next(dst.ip.address by src.process.uid)";
        Expand "expand" (1, 1) "array.expand()" "One row for each element; in let and columns only." "| let port = array(80, 443).expand()";
        OverallCount "overall_count" (0, 1) "overall_count()" "Number of all rows." "| group n = count() by event.type | let rows = overall_count()";
    }
    Plain PlainId "A function of its arguments." {
        Abs "abs" (1, 1) "abs(x)" "Absolute value." "| let x = abs(src.port.number - dst.port.number)";
        Ceiling "ceiling" (1, 1) "ceiling(x)" "Smallest whole number that is not below x." "| let ms = ceiling(event.network.durationMs)";
        Floor "floor" (1, 1) "floor(x)" "Largest whole number that is not above x." "| let ms = floor(event.network.durationMs)";
        Min "min" (1, MANY) "min(x, y, …)" "Smallest argument, or smallest element of an array." "| let low = min(src.port.number, dst.port.number)";
        Max "max" (1, MANY) "max(x, y, …)" "Largest argument, or largest element of an array." "| let high = max(src.port.number, dst.port.number)";
        Sqrt "sqrt" (1, 1) "sqrt(x)" "Square root." "| let x = sqrt(event.network.rttUs)";
        Exp "exp" (1, 1) "exp(x)" "e to the power of x." "| let x = exp(1)";
        Ln "ln" (1, 1) "ln(x)" "Natural logarithm." "| let x = ln(event.network.bytesSent)";
        Log "log" (1, 2) "log(x[, base])" "Logarithm; to base 10 if no base is given." "| let x = log(event.network.bytesSent, 2)";
        Pow "pow" (2, 2) "pow(x, y)" "x to the power of y." "| let x = pow(2, 10)";
        Len "len" (1, 1) "len(x)" "Number of characters, or of elements of an array." "len(src.process.cmdline) > 1000";
        Lower "lower" (1, 1) "lower(x)" "Text in lower case." "| let name = lower(src.process.name)";
        Upper "upper" (1, 1) "upper(x)" "Text in upper case." "| let name = upper(src.process.name)";
        Trim "trim" (1, 2) "trim(x[, characters])" "Text without white space, or without these characters, at both ends." "| let name = trim(src.process.name)";
        Ltrim "ltrim" (1, 2) "ltrim(x[, characters])" "Text without white space, or without these characters, at its beginning." "| let path = ltrim(src.process.image.path, '/')";
        Rtrim "rtrim" (1, 2) "rtrim(x[, characters])" "Text without white space, or without these characters, at its end." "| let path = rtrim(src.process.image.path, '/')";
        Substr "substr" (2, 3) "substr(x, from[, length])" "Part of a text from a character on; the first is 0." "| let start = substr(src.process.name, 0, 3)";
        Isempty "isempty" (1, 1) "isempty(x)" "Whether the value is missing or ''." "isempty(src.process.cmdline)";
        Isblank "isblank" (1, 1) "isblank(x)" "Whether the value is missing or has only white space." "isblank(src.process.cmdline)";
        Bool "bool" (1, 1) "bool(x)" "Value as true or false." "| let known = bool(src.process.name)";
        String "string" (1, 1) "string(x)" "Value as a text." "| let port = string(dst.port.number)";
        Number "number" (1, 1) "number(x)" "Value as a number." "| let n = number('443')";
        PadVersion "pad_version" (1, 1) "pad_version(x)" "Version with five digits in each part, so that versions are ordered as texts." "| let version = pad_version('6.1.10')";
        Replace "replace" (3, 3) "replace(x, regex, y)" "Text with each match replaced by y, case ignored; $1 in y is the first group." "| let x = replace(dst.ip.address, '[0-9]+$', '0')";
        ReplaceMatchcase "replace_matchcase" (3, 3) "replace_matchcase(x, regex, y)" "The same, case-sensitive." "| let x = replace_matchcase(src.process.name, 'Web', 'web')";
        Format "format" (1, MANY) "format(\"%,d of %s\", x, …)" "Text with values in it: %d, %f, %s." "| group n = count() by event.type | let line = format('%,d of %s', n, event.type)";
        JsonObjectValue "json_object_value" (2, 2) "json_object_value(json, name)" "Member of a JSON object." "| let x = json_object_value('{\"a\":1}', 'a')";
        NetIp "net_ip" (1, 1) "net_ip(x)" "Whether the value is an IP address." "net_ip(dst.ip.address)";
        NetIpv4 "net_ipv4" (1, 1) "net_ipv4(x)" "Whether the value is an IPv4 address." "net_ipv4(dst.ip.address)";
        NetIpv6 "net_ipv6" (1, 1) "net_ipv6(x)" "Whether the value is an IPv6 address." "net_ipv6(dst.ip.address)";
        NetIpsubnet "net_ipsubnet" (2, MANY) "net_ipsubnet(x, network, …)" "Whether the address is in one of the networks." "net_ipsubnet(dst.ip.address, '10.0.0.0/8')";
        NetPrivate "net_private" (1, 1) "net_private(x)" "Whether the address is private, IPv4 or IPv6." "!net_private(dst.ip.address)";
        NetOutside "net_outside" (1, 1) "net_outside(x)" "Whether the address is one of the Internet: not private, shared (100.64.0.0/10), loopback, link-local, multicast or broadcast. Of NAT64 (64:ff9b::/96), the IPv4 address counts." "net_outside(dst.ip.address)";
        NetRfc1918 "net_rfc1918" (1, 1) "net_rfc1918(x)" "Whether the address is a private IPv4 address or in 127.0.0.0/8." "!net_rfc1918(dst.ip.address)";
        NetRfc4193 "net_rfc4193" (1, 1) "net_rfc4193(x)" "Whether the address is a unique local IPv6 address." "!net_rfc4193(dst.ip.address)";
        NetUrlScheme "net_url_scheme" (1, 1) "net_url_scheme(url)" "https of https://u@a.example.org:8443/p?q#f" "| let x = net_url_scheme('https://a.example.org/')";
        NetUrlNetloc "net_url_netloc" (1, 1) "net_url_netloc(url)" "u@a.example.org:8443 of https://u@a.example.org:8443/p?q#f" "| let x = net_url_netloc('https://a.example.org/')";
        NetUrlUserinfo "net_url_userinfo" (1, 1) "net_url_userinfo(url)" "u of https://u@a.example.org:8443/p?q#f" "| let x = net_url_userinfo('https://u@a.example.org/')";
        NetUrlDomain "net_url_domain" (1, 1) "net_url_domain(url)" "example.org of https://u@a.example.org:8443/p?q#f" "| let x = net_url_domain('https://a.example.org/')";
        NetUrlSubdomain "net_url_subdomain" (1, 1) "net_url_subdomain(url)" "a of https://u@a.example.org:8443/p?q#f" "| let x = net_url_subdomain('https://a.example.org/')";
        NetUrlTld "net_url_tld" (1, 1) "net_url_tld(url)" "org of https://u@a.example.org:8443/p?q#f" "| let x = net_url_tld('https://a.example.org/')";
        NetUrlPort "net_url_port" (1, 1) "net_url_port(url)" "8443 of https://u@a.example.org:8443/p?q#f, as a number" "| let x = net_url_port('https://a.example.org:8443/')";
        NetUrlPath "net_url_path" (1, 1) "net_url_path(url)" "/p of https://u@a.example.org:8443/p?q#f" "| let x = net_url_path('https://a.example.org/p')";
        NetUrlQuery "net_url_query" (1, 1) "net_url_query(url)" "q of https://u@a.example.org:8443/p?q#f" "| let x = net_url_query('https://a.example.org/?q')";
        NetUrlParts "net_url_parts" (1, 1) "net_url_parts(url)" "Array of scheme, netloc, subdomain, domain, TLD, port, path, query, fragment, userinfo." "| let parts = net_url_parts('https://a.example.org/')";
        NetUrlFragment "net_url_fragment" (1, 1) "net_url_fragment(url)" "f of https://u@a.example.org:8443/p?q#f" "| let x = net_url_fragment('https://a.example.org/#f')";
        Array "array" (0, MANY) "array(x, y, …)" "Array of the arguments." "| let ends = array(src.ip.address, dst.ip.address)";
        ArrayGet "array_get" (2, 2) "array_get(array, n)" "Element of an array; the first is 0, negative numbers count from the end." "| let a = array(1, 2) | let x = array_get(a, 0)";
        ArrayToString "array_to_string" (1, 2) "array_to_string(array[, between])" "Elements joined into one text." "| let x = array_to_string(array(1, 2), '-')";
        ArrayFilter "array_filter" (2, 2) "array_filter(array, func(x) -> condition)" "Elements for which the condition is true." "| let x = array_filter(array(1, 2), func(x) -> x > 1)";
        ArrayFromJson "array_from_json" (1, 1) "array_from_json(x)" "Array of a JSON array; its elements are texts." "| let a = array_from_json('[1, 2]')";
        ArrayToJson "array_to_json" (1, 1) "array_to_json(array)" "Array as JSON." "| let x = array_to_json(array(1, 2))";
        Split "split" (2, 3) "split(x, regex[, n])" "Parts between the matches, case ignored, as an array of at most n." "| let parts = split(src.process.cmdline, ' ')";
        SplitMatchcase "split_matchcase" (2, 3) "split_matchcase(x, regex[, n])" "The same, case-sensitive." "| let parts = split_matchcase(src.process.cmdline, 'X')";
        ExtractMatches "extract_matches" (2, 3) "extract_matches(x, regex[, n])" "Matches, case ignored, as an array of at most n; of an expression with a group, the first group." "| let numbers = extract_matches(src.process.cmdline, '[0-9]+')";
        ExtractMatchesMatchcase "extract_matches_matchcase" (2, 3) "extract_matches_matchcase(x, regex[, n])" "The same, case-sensitive." "| let options = extract_matches_matchcase(src.process.cmdline, '-[A-Z]')";
        Get "get" (2, 2) "array.get(n)" "Element of an array; the first is 0, negative numbers count from the end." "| let a = array(1, 2) | let x = a.get(0)";
        Contains "contains" (2, 2) "array.contains(x)" "Whether x is an element." "| let a = array(1, 2) | let x = a.contains(1)";
        Distinct "distinct" (1, 1) "array.distinct()" "Array without repetitions." "| let a = array(1, 1) | let x = a.distinct()";
        Sort "sort" (1, 1) "array.sort()" "Array in ascending order." "| let a = array(2, 1) | let x = a.sort()";
        SortDesc "sort_desc" (1, 1) "array.sort_desc()" "Array in descending order." "| let a = array(1, 2) | let x = a.sort_desc()";
        Set "set" (3, 3) "array.set(n, x)" "Array with another element at a place; the same array if it has no such place." "| let a = array(1, 2) | let x = a.set(0, 3)";
        Intersect "intersect" (2, 2) "array.intersect(other)" "Elements that both arrays have, without repetitions." "| let a = array(1, 2) | let x = a.intersect(array(2, 3))";
        Sum "sum" (1, 1) "array.sum()" "Sum of the elements." "| let a = array(1, 2) | let x = a.sum()";
        Mean "mean" (1, 1) "array.mean()" "Arithmetic mean of the elements." "| let a = array(1, 2) | let x = a.mean()";
        Median "median" (1, 1) "array.median()" "Middle element, or the mean of both in the middle." "| let a = array(1, 2) | let x = a.median()";
        Reduce "reduce" (3, 3) "array.reduce(first, func(x, y) -> z)" "What the function makes of the result so far and each element; it begins with `first`." "| let a = array(1, 2) | let x = a.reduce(0, func(sum, y) -> sum + y)";
        Zip "zip" (3, 3) "array.zip(other, func(x, y) -> z)" "Array of what the function makes of the elements at the same place; as long as the shorter array." "| let a = array(1, 2) | let x = a.zip(array(3, 4), func(x, y) -> x * y)";
        Slice "slice" (2, 3) "array.slice(from[, to])" "Part of an array; negative numbers count from the end." "| let a = array(1, 2, 3) | let x = a.slice(1)";
        Concat "concat" (2, MANY) "array.concat(other, …)" "Arrays one after the other." "| let a = array(1) | let x = a.concat(array(2))";
        Map "map" (2, 2) "array.map(func(x) -> y)" "Array of what the function returns for each element." "| let a = array(1, 2) | let x = a.map(func(x) -> x * 2)";
        Filter "filter" (2, 2) "array.filter(func(x) -> condition)" "Elements for which the condition is true." "| let a = array(1, 2) | let x = a.filter(func(x) -> x > 1)";
        MatchAny "match_any" (2, 2) "array.match_any(func(x) -> condition)" "Whether the condition is true for at least one element." "| let a = array(1, 2) | let x = a.match_any(func(x) -> x > 1)";
        MatchAll "match_all" (2, 2) "array.match_all(func(x) -> condition)" "Whether the condition is true for all elements." "| let a = array(1, 2) | let x = a.match_all(func(x) -> x > 1)";
        Timebucket "timebucket" (0, 3) "timebucket([timestamp,] ['10m'[, zone]])" "Beginning of the span of time that the timestamp is in; without a span, as with 'auto'. Days are those of UTC unless a zone is named." "| group n = count() by t = timebucket('10m')";
        Strftime "strftime" (1, 3) "strftime(timestamp[, format[, zone]])" "Timestamp as a text; RFC 3339 if no format is given." "| let day = strftime(timestamp, '%Y-%m-%d')";
        Strptime "strptime" (2, 2) "strptime(text, format)" "Timestamp read from a text." "| let t = strptime('2026-11-22', '%Y-%m-%d')";
        Simpledateformat "simpledateformat" (1, 3) "simpledateformat(timestamp[, format[, zone]])" "Timestamp as a text; the format has the letters of Java's SimpleDateFormat. The zone is a name, or a distance: `GMT+8`." "| let day = simpledateformat(timestamp, 'yyyy-MM-dd')";
        Simpledateparse "simpledateparse" (2, 2) "simpledateparse(text, format)" "Timestamp read from a text; the format has the letters of Java's SimpleDateFormat." "| let t = simpledateparse('22.11.2026', 'dd.MM.yyyy')";
        Querystart "querystart" (0, 1) "querystart([unit])" "Beginning of the searched time; of files without a range, the first event." "| limit 1 | let from = querystart()";
        Queryend "queryend" (0, 1) "queryend([unit])" "End of the searched time; of files without a range, the last event." "| limit 1 | let to = queryend('seconds')";
        Queryspan "queryspan" (0, 1) "queryspan([unit])" "Length of the searched time." "| group rate = count() / queryspan('minutes') by event.type";
        Now "now" (0, 0) "now()" "Current time as a timestamp." "| limit 1 | let t = now()";
        GeoIpCity "geo_ip_city" (1, 2) "geo_ip_city(address[, language])" "City of an address." "| let city = geo_ip_city(dst.ip.address)";
        GeoIpState "geo_ip_state" (1, 2) "geo_ip_state(address[, language])" "State or province of an address." "| let state = geo_ip_state(dst.ip.address)";
        GeoIpStateIso "geo_ip_state_iso" (1, 1) "geo_ip_state_iso(address)" "State or province as its code (ISO 3166-2)." "| let state = geo_ip_state_iso(dst.ip.address)";
        GeoIpCountry "geo_ip_country" (1, 2) "geo_ip_country(address[, language])" "Country of an address." "| let country = geo_ip_country(dst.ip.address)";
        GeoIpCountryIso "geo_ip_country_iso" (1, 1) "geo_ip_country_iso(address)" "Country as its code (ISO 3166-1)." "| let country = geo_ip_country_iso(dst.ip.address)";
        GeoIpContinent "geo_ip_continent" (1, 2) "geo_ip_continent(address[, language])" "Continent of an address." "| let continent = geo_ip_continent(dst.ip.address)";
        GeoIpContinentCode "geo_ip_continent_code" (1, 1) "geo_ip_continent_code(address)" "Continent as its code." "| let continent = geo_ip_continent_code(dst.ip.address)";
        GeoIpLocation "geo_ip_location" (1, 1) "geo_ip_location(address)" "Latitude and longitude of an address." "| let place = geo_ip_location(dst.ip.address)";
        GeoDistance "geo_distance" (2, 3) "geo_distance(place, place[, 'mile'])" "Distance between two places (`latitude,longitude`) along the surface, in kilometers or miles." "| let km = geo_distance('52.5,13.4', '48.1,11.6')";
        GeoIsPoint "geo_is_point" (1, 1) "geo_is_point(x)" "Whether the value is a place: `latitude,longitude`." "| let known = geo_is_point(geo_ip_location(dst.ip.address))";
    }
}
