# Answers queries with DuckDB: each line of standard input is {"sql": …}, each line of standard output
# {"seconds": …, "rows": […]}.
import json
import sys
import time

import duckdb

connection = duckdb.connect()
# It would go to standard output.
connection.execute("SET enable_progress_bar = false")
print(json.dumps({"version": duckdb.__version__}), flush=True)
for line in sys.stdin:
    sql = json.loads(line)["sql"]
    since = time.perf_counter()
    rows = connection.execute(sql).fetchall()
    seconds = time.perf_counter() - since
    print(json.dumps({"seconds": seconds, "rows": rows}, default=str), flush=True)
