//! Checks calls: whether the function exists, may stand there, and has the right arguments.

use ipnet::IpNet;
use netconn_model::field;

use super::{Checker, Place, literal, scope::Scope};
use crate::{
    ast::{Expr, ExprKind, Span},
    catalogue::{self, AggregateId, FunctionId, FunctionInfo, FunctionKind, PlainId, RunningId},
    diagnostic::Diagnostic,
    duration::{self, BucketArguments},
    function::{REDUCE_MAX, date, too_many_reduces},
    printer,
};

/// Returns the place of the argument that is a lambda, and the number of its parameters.
fn lambda_of(id: FunctionId) -> Option<(usize, usize)> {
    use PlainId::{ArrayFilter, Filter, Map, MatchAll, MatchAny, Reduce, Zip};
    match id {
        FunctionId::Plain(ArrayFilter | Filter | Map | MatchAll | MatchAny) => Some((1, 1)),
        FunctionId::Plain(Reduce | Zip) => Some((2, 2)),
        _ => None,
    }
}

/// Whether a function sees other rows than its own. `expand` makes rows of one.
fn is_over_rows(function: &FunctionInfo) -> bool {
    function.kind == FunctionKind::Running && function.id != FunctionId::Running(RunningId::Expand)
}

/// Whether the second argument is a regular expression.
fn takes_regex(id: FunctionId) -> bool {
    use PlainId::{ExtractMatches, ExtractMatchesMatchcase, Replace, ReplaceMatchcase, Split, SplitMatchcase};
    matches!(
        id,
        FunctionId::Plain(
            ExtractMatches | ExtractMatchesMatchcase | Replace | ReplaceMatchcase | Split | SplitMatchcase
        )
    )
}

/// Whether a value is certainly no array, so that `sum` and the like of it are aggregates.
fn is_single(value: &Expr, scope: &Scope) -> bool {
    match &value.kind {
        ExprKind::Field(name) => scope.is_of_events(name) && field::by_name(name).is_some(),
        ExprKind::Number(_) | ExprKind::Whole(_) | ExprKind::Text(_) | ExprKind::Binary { .. } => true,
        _ => false,
    }
}

impl Checker<'_> {
    pub(super) fn call(&mut self, call: &Expr, scope: &Scope, place: Place) {
        // Only calls are passed here.
        let ExprKind::Call { name, name_span: span, arguments, condition, by } = &call.kind else { return };
        let (span, condition) = (*span, condition.as_deref());
        // `min(x)` outside of a group is the plain function with too few arguments; inside it is the aggregate.
        let aggregate = catalogue::aggregate(name, arguments.len()).is_some()
            && (place == Place::Aggregates
                || PlainId::by_name(name).is_none()
                || matches!(&arguments[..], [value] if is_single(value, scope)));
        let kind = |function: &&FunctionInfo| (function.kind == FunctionKind::Aggregate) == aggregate;
        // A function that may not stand here is still found, so that the message says where it may.
        let function = catalogue::functions(name).find(kind).or_else(|| catalogue::functions(name).next());
        match function {
            None => {
                let message = format!("there is no function '{name}'");
                let instead = catalogue::function_instead(name);
                self.diagnostics.push(Diagnostic::error(span, message).suggest_any(instead));
            }
            Some(function) => {
                self.place_of(function, span, place);
                if self.over_rows && function.kind == FunctionKind::Running {
                    let message =
                        format!("{name} cannot stand within another function over rows: make a column of it first");
                    // In a group it may be about aggregates, which `let` does not have.
                    let instead = (place == Place::Row).then(|| format!("| let x = {}", printer::expression(call)));
                    self.diagnostics.push(Diagnostic::error(span, message).suggest_any(instead));
                }
                self.count_of(function, span, arguments.len());
                self.meaning_of(function, arguments);
            }
        }
        if let (Some(condition), false) = (condition, aggregate) {
            let message = "where can only stand in an aggregate";
            self.diagnostics.push(Diagnostic::error(condition.span, message).suggest("sum(x where y > 1)"));
        }
        if let (Some(key), false) =
            (by.first(), function.is_some_and(|function| function.kind == FunctionKind::Running))
        {
            let message = "by can only stand in group, top and functions over rows";
            self.diagnostics.push(Diagnostic::error(key.span, message).suggest("prev(x by key)"));
        }
        let inner = if aggregate { Place::InAggregate } else { place };
        let around = self.over_rows;
        self.over_rows |= function.is_some_and(is_over_rows);
        by.iter().for_each(|key| self.expression(key, scope, inner));
        for (number, argument) in arguments.iter().enumerate() {
            match &argument.kind {
                // Only here is a lambda valid; `expression` reports it at every other place.
                ExprKind::Lambda { parameters, body }
                    if let Some((_, count)) =
                        function.and_then(|function| lambda_of(function.id)).filter(|(place, _)| *place == number) =>
                {
                    if parameters.len() != count {
                        let message = format!(
                            "{name} needs a function of {}",
                            if count == 1 { "an element" } else { "two elements" }
                        );
                        let form = if count == 1 { "func(x) -> …" } else { "func(x, y) -> …" };
                        self.diagnostics.push(Diagnostic::error(argument.span, message).suggest(form));
                    }
                    let is_reduce = function.is_some_and(|function| function.id == FunctionId::Plain(PlainId::Reduce));
                    self.reduces += usize::from(is_reduce);
                    // Said once, not at each level below it too.
                    if is_reduce && self.reduces == REDUCE_MAX + 1 {
                        self.diagnostics.push(Diagnostic::error(span, too_many_reduces()));
                    }
                    let outer = self.parameters.len();
                    self.parameters.extend(parameters.iter().map(|parameter| parameter.text.clone()));
                    self.expression(body, scope, inner);
                    self.parameters.truncate(outer);
                    self.reduces -= usize::from(is_reduce);
                }
                // `timebucket(auto)` is accepted without quotes.
                ExprKind::Field(word) if name == "timebucket" && word == "auto" => {}
                // Arguments of an unknown function are checked as well: all errors of a query are reported at once.
                _ => self.expression(argument, scope, inner),
            }
        }
        self.over_rows = around;
        if let Some(condition) = condition {
            // `where` is about the rows of the group, as the arguments are.
            self.expression(condition, scope, Place::InAggregate);
        }
    }

    fn place_of(&mut self, function: &FunctionInfo, span: Span, place: Place) {
        let name = function.name;
        let is_expand = function.id == FunctionId::Running(RunningId::Expand);
        let message = match (function.kind, place) {
            (FunctionKind::Aggregate, Place::InAggregate) => {
                format!("{name} cannot stand within another aggregate: use a second group")
            }
            (FunctionKind::Aggregate, Place::Key) => {
                format!("{name} makes one value of a group and so cannot be its key")
            }
            (FunctionKind::Aggregate, Place::FirstFilter | Place::Row) => {
                format!("{name} makes one value of many rows, so it can only stand in group or top")
            }
            (FunctionKind::Running, _) if is_expand && place != Place::Row => {
                format!("{name} makes rows, so it can only stand in let or columns behind a |")
            }
            (FunctionKind::Running, Place::InAggregate | Place::Key | Place::FirstFilter) => {
                format!(
                    "{name} has a value for each row, so it can only stand in let, columns, filter or sort behind a |, or in \
                     group around aggregates"
                )
            }
            // Plain functions may stand anywhere.
            _ => return,
        };
        let diagnostic = Diagnostic::error(span, message);
        let is_row = matches!(place, Place::FirstFilter | Place::Row) && function.kind == FunctionKind::Aggregate;
        // The shortest valid call: optional arguments in brackets could not be pasted.
        let usage = if function.least == 0 { format!("{name}()") } else { function.usage.to_owned() };
        let suggestion = is_row.then(|| format!("| group n = {usage} by …"));
        self.diagnostics.push(diagnostic.suggest_any(suggestion));
    }

    fn count_of(&mut self, function: &FunctionInfo, span: Span, given: usize) {
        if let Some(message) = function.wrong_count(given) {
            self.diagnostics.push(Diagnostic::error(span, message).suggest(function.usage));
        }
    }

    /// Checks arguments that are more than values: regular expressions, networks, spans of time.
    fn meaning_of(&mut self, function: &FunctionInfo, arguments: &[Expr]) {
        let FunctionInfo { id, name, .. } = *function;
        if let (FunctionId::Plain(PlainId::Strftime | PlainId::Simpledateformat), [_, _, zone]) = (id, arguments)
            && let ExprKind::Text(text) = &zone.kind
            && duration::zone(text).is_none()
        {
            self.no_zone(zone, "'Europe/Berlin'");
        }
        match (id, arguments) {
            // Arguments that are computed for each row cannot be checked, so only texts that are written out are looked
            // at.
            (_, [_, regex, ..]) if takes_regex(id) => self.regex(regex),
            (_, [.., body])
                if lambda_of(id).is_some_and(|(place, _)| arguments.len() == place + 1)
                    && !matches!(body.kind, ExprKind::Lambda { .. }) =>
            {
                let (what, form) = match lambda_of(id) {
                    Some((_, 2)) => ("two elements", "func(x, y)"),
                    _ => ("an element", "func(x)"),
                };
                let message = format!("{name} needs a function of {what}");
                let suggestion = format!("{form} -> {}", printer::expression(body));
                self.diagnostics.push(Diagnostic::error(body.span, message).suggest(suggestion));
            }
            (FunctionId::Plain(PlainId::Simpledateformat | PlainId::Simpledateparse), [_, format, ..]) => {
                if let ExprKind::Text(text) = &format.kind
                    && let Some(letter) = date::unknown_letter(text)
                {
                    let message =
                        format!("the letter {letter} means nothing in a format of {name}: text needs apostrophes");
                    self.diagnostics.push(Diagnostic::error(format.span, message).suggest("\"yyyy-MM-dd'T'HH:mm:ss\""));
                }
            }
            (FunctionId::Plain(PlainId::NetIpsubnet), [_, networks @ ..]) => {
                networks.iter().for_each(|network| self.network(network));
            }
            (FunctionId::Plain(PlainId::Timebucket), [..]) => {
                let arguments = BucketArguments::of(arguments);
                if let Some(width) = arguments.width {
                    self.bucket(width);
                }
                if let (Some(zone), None) = (arguments.zone, arguments.time_zone()) {
                    self.no_zone(zone, "timebucket('1d', 'Europe/Berlin')");
                }
            }
            (FunctionId::Plain(PlainId::Querystart | PlainId::Queryend | PlainId::Queryspan), [unit]) => {
                if let ExprKind::Text(text) = &unit.kind
                    && duration::unit(text).is_none()
                {
                    let message = format!("'{text}' is not a unit of time: use seconds, minutes, hours, days or weeks");
                    self.diagnostics.push(Diagnostic::error(unit.span, message).suggest("'minutes'"));
                }
            }
            (FunctionId::Aggregate(AggregateId::Pct | AggregateId::Percentile), [first, second]) => {
                let is_percent =
                    |expr: &Expr| matches!(expr.kind, ExprKind::Number(number) if (0.0..=100.0).contains(&number));
                if !is_percent(first) && !is_percent(second) {
                    let message = "a percentile needs a number from 0 to 100";
                    self.diagnostics.push(Diagnostic::error(first.span, message).suggest(format!("{name}(95, x)")));
                }
                for share in [first, second] {
                    if let ExprKind::Number(number) = share.kind
                        && number > 0.0
                        && number < 1.0
                    {
                        let message = format!("{number} is taken as {number} %: percentiles are numbers from 0 to 100");
                        let percent = (number * 100_000.0).round() / 1000.0;
                        self.diagnostics.push(Diagnostic::warning(share.span, message).suggest(percent.to_string()));
                    }
                }
            }
            _ => {}
        }
    }

    fn no_zone(&mut self, zone: &Expr, instead: &str) {
        let message = format!("{} is no time zone: write a name like 'Europe/Berlin'", literal::shown(zone));
        self.diagnostics.push(Diagnostic::error(zone.span, message).suggest(instead));
    }

    fn network(&mut self, network: &Expr) {
        if let ExprKind::Text(text) = &network.kind
            && text.parse::<IpNet>().is_err()
        {
            let message = format!("'{text}' is not a network: write an address, / and the number of bits");
            self.diagnostics.push(Diagnostic::error(network.span, message).suggest("'10.0.0.0/8'"));
        }
    }

    fn bucket(&mut self, bucket: &Expr) {
        let is_read = match &bucket.kind {
            ExprKind::Text(text) => duration::bucket(text).is_some(),
            ExprKind::Number(number) => duration::bucket_count(*number).is_some(),
            ExprKind::Field(word) => word == "auto",
            ExprKind::Call { name, .. } => name == "queryspan",
            _ => false,
        };
        if !is_read {
            let shown = literal::shown(bucket);
            let message = format!(
                "{shown} is not a span of time: write '10m', '1 hour', 'auto', or a number of spans from 1 to 500"
            );
            self.diagnostics.push(Diagnostic::error(bucket.span, message).suggest("timebucket('10m')"));
        }
    }
}
