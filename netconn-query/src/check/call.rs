//! Calls: functions that there are, where they may stand, how many arguments they have and what these may be.

use ipnet::IpNet;

use super::{Checker, Place, literal, scope::Scope};
use crate::{
    ast::{Expr, ExprKind, Span},
    catalogue::{self, FunctionInfo, FunctionKind, MANY},
    diagnostic::Diagnostic,
    duration, printer,
};

/// Functions whose second argument is a lambda.
const WITH_LAMBDA: [&str; 5] = ["array_filter", "filter", "map", "match_any", "match_all"];
/// Functions whose second argument is a regular expression.
const WITH_REGEX: [&str; 3] = ["replace", "split", "extract_matches"];

/// Whether a call with so many arguments is an aggregate, where aggregates may be: `min(x)` is, `min(x, y)` is none.
pub(super) fn is_aggregate(name: &str, arguments: usize) -> bool {
    let mut functions = catalogue::functions(name).filter(|function| function.kind == FunctionKind::Aggregate);
    let has_plain = catalogue::functions(name).any(|function| function.kind == FunctionKind::Plain);
    functions.any(|function| !has_plain || arguments <= function.most)
}

impl Checker<'_> {
    pub(super) fn call(
        &mut self,
        name: &str,
        span: Span,
        arguments: &[Expr],
        condition: Option<&Expr>,
        scope: &Scope,
        place: Place,
    ) {
        let aggregate = is_aggregate(name, arguments.len()) && (place == Place::Aggregates || !has_plain(name));
        let kind = |function: &&FunctionInfo| (function.kind == FunctionKind::Aggregate) == aggregate;
        let function = catalogue::functions(name).find(kind).or_else(|| catalogue::functions(name).next());
        match function {
            None => {
                let message = format!("there is no function '{name}'");
                let instead = catalogue::function_instead(name);
                self.diagnostics.push(Diagnostic::error(span, message).suggest_any(instead));
            }
            Some(function) => {
                self.place_of(function, span, place);
                self.count_of(function, span, arguments.len());
                self.meaning_of(name, arguments);
            }
        }
        if let (Some(condition), false) = (condition, aggregate) {
            let message = "where belongs into aggregates only";
            self.diagnostics.push(Diagnostic::error(condition.span, message).suggest("sum(x where y > 1)"));
        }
        let inner = if aggregate { Place::InAggregate } else { place };
        for (number, argument) in arguments.iter().enumerate() {
            match &argument.kind {
                ExprKind::Lambda { parameter, body } if number == 1 && WITH_LAMBDA.contains(&name) => {
                    self.parameters.push(parameter.text.clone());
                    self.expression(body, scope, inner);
                    self.parameters.pop();
                }
                // `timebucket(auto)` may do without the quotes.
                ExprKind::Field(word) if name == "timebucket" && word == "auto" => {}
                _ => self.expression(argument, scope, inner),
            }
        }
        if let Some(condition) = condition {
            self.expression(condition, scope, Place::InAggregate);
        }
    }

    fn place_of(&mut self, function: &FunctionInfo, span: Span, place: Place) {
        let name = function.name;
        let message = match (function.kind, place) {
            (FunctionKind::Aggregate, Place::InAggregate) => {
                format!("{name} cannot stand within another aggregate: use a second group")
            }
            (FunctionKind::Aggregate, Place::Key) => {
                format!("{name} makes one value of a group and so cannot be its key")
            }
            (FunctionKind::Aggregate, Place::FirstFilter | Place::Row) => {
                format!("{name} makes one value of many rows, so it belongs into group or top")
            }
            (FunctionKind::Running, Place::Aggregates | Place::InAggregate | Place::Key | Place::FirstFilter) => {
                format!("{name} goes row by row, so it belongs into let, columns, filter or sort behind a |")
            }
            _ => return,
        };
        let diagnostic = Diagnostic::error(span, message);
        let is_row = matches!(place, Place::FirstFilter | Place::Row) && function.kind == FunctionKind::Aggregate;
        let usage = if function.least == 0 { format!("{name}()") } else { function.usage.to_owned() };
        let suggestion = is_row.then(|| format!("| group n = {usage} by …"));
        self.diagnostics.push(diagnostic.suggest_any(suggestion));
    }

    fn count_of(&mut self, function: &FunctionInfo, span: Span, given: usize) {
        let FunctionInfo { name, least, most, usage, .. } = function;
        if (*least..=*most).contains(&given) {
            return;
        }
        let expected = match (*least, *most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, MANY) => format!("at least {least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        let message = format!("{name} has {expected}, not {given}");
        self.diagnostics.push(Diagnostic::error(span, message).suggest(*usage));
    }

    /// Arguments that are texts or numbers and mean something.
    fn meaning_of(&mut self, name: &str, arguments: &[Expr]) {
        match (name, arguments) {
            (_, [_, regex, ..]) if WITH_REGEX.contains(&name) => self.regex(regex),
            (_, [_, function]) if WITH_LAMBDA.contains(&name) && !matches!(function.kind, ExprKind::Lambda { .. }) => {
                let message = format!("{name} is given a function for each element");
                let suggestion = format!("func(x) -> {}", printer::expression(function));
                self.diagnostics.push(Diagnostic::error(function.span, message).suggest(suggestion));
            }
            ("net_ipsubnet", [_, networks @ ..]) => networks.iter().for_each(|network| self.network(network)),
            ("timebucket", [bucket] | [_, bucket]) => self.bucket(bucket),
            ("querystart" | "queryend" | "queryspan", [unit]) => {
                if let ExprKind::Text(text) = &unit.kind
                    && duration::unit(text).is_none()
                {
                    let message = format!("'{text}' is no unit of time: seconds, minutes, hours, days and weeks are");
                    self.diagnostics.push(Diagnostic::error(unit.span, message).suggest("'minutes'"));
                }
            }
            ("pct" | "percentile", [first, second]) => {
                let is_percent =
                    |expr: &Expr| matches!(expr.kind, ExprKind::Number(number) if (0.0..=100.0).contains(&number));
                if !is_percent(first) && !is_percent(second) {
                    let message = "a percentile needs a number from 0 to 100";
                    self.diagnostics.push(Diagnostic::error(first.span, message).suggest(format!("{name}(95, x)")));
                }
            }
            _ => {}
        }
    }

    fn network(&mut self, network: &Expr) {
        if let ExprKind::Text(text) = &network.kind
            && text.parse::<IpNet>().is_err()
        {
            let message = format!("'{text}' is no network: an address, / and how many bits it has are");
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
            let message =
                format!("{shown} is no span of time: '10m', '1 hour', 'auto', or how many spans from 1 to 500, are");
            self.diagnostics.push(Diagnostic::error(bucket.span, message).suggest("timebucket('10m')"));
        }
    }
}

fn has_plain(name: &str) -> bool {
    catalogue::functions(name).any(|function| function.kind == FunctionKind::Plain)
}
