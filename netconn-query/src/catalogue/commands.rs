//! The table of commands.

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct CommandInfo {
    /// Name of the command.
    pub name: &'static str,
    /// Form of the command, optional parts in brackets.
    pub usage: &'static str,
    /// What the command does, in a line.
    pub meaning: &'static str,
    /// A query with the command in it.
    pub example: &'static str,
}

macro_rules! commands {
    ($($name:literal $usage:literal $meaning:literal $example:literal;)+) => {
        /// All commands.
        pub const COMMANDS: &[CommandInfo] =
            &[$(CommandInfo { name: $name, usage: $usage, meaning: $meaning, example: $example }),+];
    };
}

commands! {
    "filter" "filter expression"
        "Keeps the rows for which it is true."
        "event.type = 'IP Connect' | group n = count() by dst.ip.address | filter n > 100";
    "columns" "columns field, name = expression"
        "Keeps these columns only, in this order."
        "event.type = 'IP Connect' | columns src.process.name, 'Port' = dst.port.number";
    "let" "let name = expression, …"
        "Adds columns."
        "event.type = 'IP Close' | let bytes = event.network.bytesSent + event.network.bytesReceived";
    "group" "group name = aggregate(x), … by key, name = expression"
        "One row for each combination of the keys; one row in all without `by`."
        "event.type = 'IP Connect' | group n = count() by dst.ip.address";
    "sort" "sort -a, +b, c"
        "Orders the rows; `-` puts the largest first."
        "event.type = 'IP Connect' | group n = count() by dst.ip.address | sort -n";
    "limit" "limit [N]"
        "Keeps the first N rows, or 10."
        "event.type = 'IP Connect' | sort -timestamp | limit 20";
    "nolimit" "nolimit"
        "Shows all rows, however many."
        "event.type = 'IP Listen' | nolimit";
    "parse" "parse \"text $name$ text\" from field"
        "Takes columns out of a text."
        "event.type = 'IP Connect' | parse '$program$ $arguments$' from src.process.cmdline";
    "lookup" "lookup column, name = column from table by key = expression"
        "Adds columns of a table in a file, CSV or JSON."
        "event.type = 'IP Connect' | lookup owner from networks by network =:cidr dst.ip.address";
    "dataset" "dataset 'table'"
        "Takes the rows of a table in a file instead of events."
        "| dataset 'networks'";
    "savelookup" "savelookup 'table'[, 'merge']"
        "Writes the rows to a table in a file, for `lookup` and `dataset`."
        "event.type = 'IP Listen' | group count() by local.port.number | savelookup 'known-ports'";
    "join" "[inner|left|outer|sql inner|sql left|sql outer] join [a =] (query), [b =] (query) [on k, a.x = b.y]"
        "Puts rows of queries side by side: with the first match, or with all after `sql`."
        "| join a = (event.type = 'IP Connect'), b = (event.type = 'IP Close') on event.connection.id";
    "union" "union (query), (query)"
        "The rows of all queries, one after another."
        "| union (event.type = 'IP Connect' | limit 5), (event.type = 'IP Close' | limit 5)";
    "transpose" "transpose column [on keys] [limit N]"
        "Makes a column of each value of a column."
        "| group n = count() by t = timebucket('1h'), event.type | transpose event.type on t";
    "top" "top K [name = aggregate(x)] by key"
        "The K groups with the highest aggregate."
        "event.type = 'IP Connect' | top 10 n = count() by dst.ip.address";
    "compare" "compare name = timeshift('-1w')"
        "Repeats the query over another time and puts its values beside."
        "event.type = 'IP Connect' | group n = count() by src.process.name | compare before = timeshift('-1w')";
    "dedup" "dedup field, …"
        "Keeps the first row of each combination of values; of whole rows when no field is named."
        "event.type = 'IP Connect' | dedup src.process.name, dst.ip.address";
    "sequence" "sequence [by key, …] within '5m' (filter), (filter), …"
        "One row each time that events follow each other within a time, with the first and the last of them."
        "| sequence by src.process.uid within '5m' (event.type = 'IP Listen'), (event.type = 'IP Connect')";
}
