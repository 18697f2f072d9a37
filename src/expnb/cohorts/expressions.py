"""What a metric reads of a row: a column, an Ibis expression, or SQL."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from expnb.cohorts.engine import ask, run
from expnb.cohorts.sources import Source
from expnb.errors import ColumnNotFoundError, MetricValuesError, SourceError

if TYPE_CHECKING:
    import ibis.expr.types as ir

BINARY: Mapping[type[ast.AST], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# Methods that read rows.
ACTS = frozenset({"preview", "to_list", "to_pandas"})
UNARY: Mapping[type[ast.AST], Callable[..., object]] = {ast.Invert: operator.invert, ast.USub: operator.neg}


def from_ibis(table: ir.Table, text: str, name: str) -> ir.Column:
    """The value of an Ibis expression over a row ``_``, such as ``"_.price * _.quantity"``.

    Only columns, numbers, texts, operators and methods of columns are read: a specification is data, and never runs as a program.

    Raises
    ------
    MetricValuesError
        If the text is anything else.
    ColumnNotFoundError
        If the table lacks a column.
    """
    try:
        return _of_one_row(_value(ast.parse(text, mode="eval").body, table))
    except ColumnNotFoundError:
        raise
    except Exception as error:
        raise MetricValuesError(
            name,
            f"the Ibis expression {text!r} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}). Write columns as _.name or _['name'], with operators and methods, such as `_.price * _.quantity`.",
        ) from error


def _value(node: ast.AST, table: ir.Table) -> object:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case (
            ast.Attribute(value=ast.Name(id="_"), attr=name)
            | ast.Subscript(value=ast.Name(id="_"), slice=ast.Constant(value=str(name)))
        ):
            if name not in table.schema().names:
                raise ColumnNotFoundError(name, table.schema().names)
            return table[name]
        case ast.Call(func=ast.Attribute(value=owner, attr=method), args=args, keywords=keywords) if (
            not method.startswith("_")
        ):
            given = {str(word.arg): _value(word.value, table) for word in keywords}
            return _method(_value(owner, table), method)(*(_value(part, table) for part in args), **given)
        case ast.BinOp(left=left, op=act, right=right) if type(act) in BINARY:
            return BINARY[type(act)](_value(left, table), _value(right, table))
        case ast.Compare(left=left, ops=[act], comparators=[right]) if type(act) in BINARY:
            return BINARY[type(act)](_value(left, table), _value(right, table))
        case ast.UnaryOp(op=act, operand=part) if type(act) in UNARY:
            return UNARY[type(act)](_value(part, table))
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, table) for part in parts]
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _method(owner: object, name: str) -> Callable[..., object]:
    """A method of a column that makes another column: none that runs, writes or shows something."""
    import ibis.expr.types as ir  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if not isinstance(owner, ir.Value) or hasattr(ir.Expr, name) or name in ACTS:
        raise ValueError(f"{name!r} is no method that makes a column")
    method: Callable[..., object] = getattr(owner, name)
    return method


def _of_one_row(value: object) -> ir.Column:
    """A value that depends on its own row alone."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed
    import ibis.expr.operations as ops  # noqa: PLC0415
    import ibis.expr.types as ir  # noqa: PLC0415

    if isinstance(value, bool | int | float):
        value = ibis.literal(value)
    if not isinstance(value, ir.Value):
        raise ValueError(f"it makes a {type(value).__name__}, not a column")  # noqa: TRY004 - a value of a file
    wide = (ops.Reduction, ops.Analytic, ops.WindowFunction, ops.ScalarSubquery, ops.Unnest, ops.Impure)
    if value.op().find(wide, filter=ops.Value):
        raise ValueError("it looks at other rows, or makes new ones; sums are taken by expnb")
    return value


def with_sql(source: Source, expressions: Mapping[str, tuple[str, str]]) -> ir.Table:
    """The table of a source with one more column per SQL expression.

    Parameters
    ----------
    expressions : mapping of str to (str, str)
        Name of the new column, to the metric or expectation it belongs to and its SQL, in the language of the source.

    Raises
    ------
    MetricValuesError
        If a text is no single expression.
    ColumnNotFoundError
        If it names a column that the source lacks.
    SourceError
        If the engine does not understand it.
    """
    if not expressions:
        return source.table
    import sqlglot  # noqa: PLC0415 - 0.2 s, only when SQL is read
    import sqlglot.expressions as sge  # noqa: PLC0415

    engine = source.engine
    dialect = engine.dialect
    added, read = [], set()
    for column, (owner, text) in expressions.items():
        try:
            statements = sqlglot.parse(f"SELECT (\n{text}\n) AS x", dialect=dialect)
        except sqlglot.errors.SqlglotError:
            statements = []
        only = statements[0] if len(statements) == 1 and isinstance(statements[0], sge.Select) else sge.Select()
        inner = only.expressions[0].unalias() if len(only.expressions) == 1 else None
        wide = (sge.Query, sge.AggFunc, sge.Window, sge.UDTF, sge.Explode, sge.Star, sge.Columns)
        named = (sge.Placeholder, sge.Alias)
        if not isinstance(inner, sge.Paren) or only.args.get("from_") or inner.find(*wide) or inner.find(*named):
            raise MetricValuesError(
                owner,
                f"{text!r} is no SQL expression over one row. Write columns, numbers and functions of them, such as `price * quantity`; sums are taken by expnb.",
            )
        added.append(sge.alias_(inner, column, quoted=True).sql(dialect=dialect, comments=False))
        read |= {found.name for found in inner.find_all(sge.Column) if not found.table}
    ask(engine, source.table.limit(0))  # frames become known to their engine by being read
    try:
        query = f"SELECT *, {', '.join(added)} FROM ({engine.compile(source.table)}) AS cohort"  # noqa: S608 - parsed above
        return run(engine, lambda: engine.sql(query))
    except SourceError as error:
        known = source.table.schema().names
        missing = sorted(name for name in read if name.casefold() not in {other.casefold() for other in known})
        if missing:
            raise ColumnNotFoundError(missing[0], known) from error
        raise
