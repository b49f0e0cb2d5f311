//! Calls of functions. Those that depend on the time of a search, on a database or on more than one event are refused.

use netconn_model::field::Field;

use super::{Compiler, operand::Operand};
use crate::{
    ast::{Expr, ExprKind, Span},
    catalogue::{FunctionId, PlainId, functions},
    duration::{self, Bucket},
    evaluate::{
        call::{Call, Spelled},
        lambda::{Body, Lambda},
        node::Node,
    },
    function::{Code, LambdaKind, Planned, RowFunction, Run, code},
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
        let kind = function.returns.of(&kinds);
        let arguments: Vec<Node> = operands.into_iter().map(|operand| operand.node).collect();
        let spelled = Spelled::new(function, &arguments);
        Operand::new(Node::Call(Box::new(Call { function: *function, arguments, kind, spelled })), kind)
    }

    /// Compiles `timebucket([time,] width)` with a width that is written out.
    fn timebucket(&mut self, span: Span, arguments: &[Expr]) -> Operand {
        let (time, width) = match arguments {
            [time, width, ..] => (self.value(time), Some(width)),
            [width] => (self.field(Field::EventTime.info().name), Some(width)),
            [] => (Operand::null(), None),
        };
        let bucket = match width.map(|width| &width.kind) {
            Some(ExprKind::Text(text)) => duration::bucket(text),
            // A number of buckets divides the searched time, and a single event has none.
            _ => None,
        };
        match bucket {
            Some(Bucket::Every(width)) => Operand::new(Node::Bucket(Box::new(time.node), width), ValueKind::Time),
            _ => {
                let message = "a filter over one event needs to know how long a span of timebucket is";
                self.refuse(span, message, Some("timebucket('10m')".to_owned()));
                Operand::null()
            }
        }
    }

    fn lambda(&mut self, kind: LambdaKind, name: &str, span: Span, arguments: &[Expr]) -> Operand {
        // Kinds are known before the first event, so an argument that is no array is an error of the filter.
        let [array, Expr { kind: ExprKind::Lambda { parameter, body }, .. }] = arguments else {
            // The checker has reported it.
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
        self.parameters.push((parameter.text.clone(), *element));
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
        };
        self.parameters.pop();
        Operand::new(Node::Lambda(Box::new(Lambda { array: array.node, body })), returns)
    }
}
