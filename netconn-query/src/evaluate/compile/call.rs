//! Calls of functions. Those that depend on the time of a search, on a database or on more than one event are refused.

use netconn_model::field::Field;

use super::{Compiler, operand::Operand};
use crate::{
    ast::{Expr, ExprKind, Span},
    catalogue::{FunctionId, PlainId, functions},
    duration::{self, Bucket, BucketArguments},
    evaluate::{
        call::{Call, Spelled},
        condition::Condition,
        lambda::{Body, Lambda},
        node::Node,
    },
    function::{Code, LambdaKind, Planned, REDUCE_MAX, RowFunction, Run, code, takes_elements, wants_elements},
    value::ValueKind,
};

impl Compiler<'_> {
    /// Compiles a call. The checker has reported unknown functions and wrong numbers of arguments.
    pub(super) fn call(&mut self, name: &str, span: Span, arguments: &[Expr]) -> Operand {
        // An aggregate is refused by the checker, as is an unknown name.
        let Some(id) = PlainId::by_name(name) else {
            if functions(name).any(|function| matches!(function.id, FunctionId::Running(_))) {
                let message = format!("{name} goes over several events, and a filter here looks at one at a time");
                self.refuse(span, message, None);
            }
            return Operand::null();
        };
        if id.info().wrong_count(arguments.len()).is_some() {
            return Operand::null();
        }
        // Functions over rows are shared with searches; those that a search plans by itself are done here or refused.
        match code(id) {
            Code::Row(function) => self.row_function(&function, span, arguments),
            Code::Planned(Planned::Timebucket) => self.timebucket(span, arguments),
            Code::Planned(Planned::Lambda(kind)) => self.lambda(kind, name, span, arguments),
            Code::Planned(Planned::Now) => {
                let message = "a filter over one event has no present: compare with a time that is written out";
                self.refuse(span, message, Some("event.time > '2026-09-21T14:40:00Z'".to_owned()));
                Operand::null()
            }
            Code::Planned(Planned::QueryStart | Planned::QueryEnd | Planned::QuerySpan) => {
                let message =
                    format!("{name} is about the time that is searched, and a filter over one event searches none");
                self.refuse(span, message, None);
                Operand::null()
            }
        }
    }

    fn row_function(&mut self, function: &RowFunction, span: Span, arguments: &[Expr]) -> Operand {
        let operands: Vec<Operand> = arguments.iter().map(|argument| self.value(argument)).collect();
        // The arguments are compiled first, so that errors within them are reported as well.
        if let Run::Geography(_) = function.run {
            let name = function.name;
            let message = format!("{name} needs a database of places, which a filter over one event does not have");
            self.refuse(span, message, Some("net_ipsubnet(dst.ip.address, '192.0.2.0/24')".to_owned()));
            return Operand::null();
        }
        let kinds: Vec<ValueKind> = operands.iter().map(|operand| operand.kind).collect();
        if function.is_of_elements && !takes_elements(&kinds) {
            self.refuse(span, wants_elements(function.name), None);
            return Operand::null();
        }
        let kind = function.returns.of(&kinds);
        let arguments: Vec<Node> = operands.into_iter().map(|operand| operand.node).collect();
        let spelled = Spelled::new(function, &arguments);
        Operand::new(Node::Call(Box::new(Call { function: *function, arguments, kind, spelled })), kind)
    }

    /// Compiles `timebucket([time,] width)` with a width that is written out.
    fn timebucket(&mut self, span: Span, arguments: &[Expr]) -> Operand {
        let arguments = BucketArguments::of(arguments);
        let time = match arguments.time {
            Some(time) => self.value(time),
            None => self.field(Field::EventTime.info().name),
        };
        let bucket = match arguments.width.map(|width| &width.kind) {
            Some(ExprKind::Text(text)) => duration::bucket(text),
            // A number of buckets divides the searched time, and a single event has none.
            _ => None,
        };
        match bucket {
            Some(Bucket::Every(width)) => {
                Operand::new(Node::Bucket(Box::new(time.node), width, arguments.time_zone()), ValueKind::Time)
            }
            _ => {
                let message = "a filter over one event needs to know how long a span of timebucket is";
                self.refuse(span, message, Some("timebucket('10m')".to_owned()));
                Operand::null()
            }
        }
    }

    fn lambda(&mut self, kind: LambdaKind, name: &str, span: Span, arguments: &[Expr]) -> Operand {
        // Kinds are known before the first event, so an argument that is no array is an error of the filter.
        // The checker has reported what is not so.
        let (Some(array), Some(Expr { kind: ExprKind::Lambda { parameters, body }, .. })) =
            (arguments.first(), arguments.last())
        else {
            return Operand::null();
        };
        let array = self.value(array);
        let ValueKind::List(element) = array.kind else {
            if array.kind != ValueKind::Null {
                self.refuse(span, format!("{name} takes an array, and this is none"), None);
            }
            return Operand::null();
        };
        // Known only in the body. A field of the same name is hidden there, as in a search.
        let name = |place: usize| parameters.get(place).map_or_else(String::new, |name| name.text.clone());
        if let LambdaKind::Reduce | LambdaKind::Zip = kind {
            let second = arguments.get(1).map_or_else(Operand::null, |second| self.value(second));
            return self.of_two(&[name(0), name(1)], kind, (array, *element), second, body);
        }
        self.parameters.push((name(0), *element));
        let (body, returns) = match kind {
            LambdaKind::Map => {
                let body = self.value(body);
                // Arrays in arrays become texts.
                let returns = ValueKind::list(body.kind);
                let element = match returns {
                    ValueKind::List(element) => *element,
                    other => other,
                };
                (Body::Map(body.node, element), returns)
            }
            LambdaKind::Filter => (Body::Filter(self.condition(body)), array.kind),
            LambdaKind::Any => (Body::Any(self.condition(body)), ValueKind::Bool),
            LambdaKind::All => (Body::All(self.condition(body)), ValueKind::Bool),
            // Handled above.
            LambdaKind::Reduce | LambdaKind::Zip => (Body::Any(Condition::Constant(false)), ValueKind::Null),
        };
        self.parameters.pop();
        Operand::new(Node::Lambda(Box::new(Lambda { array: array.node, body })), returns)
    }

    /// Compiles `reduce` and `zip`, whose lambdas have two parameters.
    fn of_two(
        &mut self,
        names: &[String; 2],
        kind: LambdaKind,
        (array, element): (Operand, ValueKind),
        second: Operand,
        body: &Expr,
    ) -> Operand {
        let with = |compiler: &mut Self, kinds: [ValueKind; 2]| {
            let said = compiler.diagnostics.len();
            compiler.parameters.extend(names.iter().cloned().zip(kinds));
            let body = compiler.value(body);
            compiler.parameters.truncate(compiler.parameters.len() - 2);
            (body, said)
        };
        if kind == LambdaKind::Zip {
            let ValueKind::List(other) = second.kind else { return Operand::null() };
            let body = with(self, [element, *other]).0;
            let returns = ValueKind::list(body.kind);
            let kind = if let ValueKind::List(element) = returns { *element } else { returns };
            let body = Body::Zip(second.node, body.node, kind);
            return Operand::new(Node::Lambda(Box::new(Lambda { array: array.node, body })), returns);
        }
        // The checker has reported it. The time to compile doubles with each level.
        if self.reduces == REDUCE_MAX {
            return Operand::null();
        }
        self.reduces += 1;
        // The result has the kind that holds both the first value and what the function returns.
        let (found, said) = with(self, [second.kind, element]);
        let kind = second.kind.with(found.kind);
        let found = if kind == second.kind {
            found
        } else {
            // What was said about the first attempt is said again.
            self.diagnostics.truncate(said);
            with(self, [kind, element]).0
        };
        self.reduces -= 1;
        let body = Body::Reduce(second.node, found.node, kind);
        Operand::new(Node::Lambda(Box::new(Lambda { array: array.node, body })), kind)
    }
}
