"""Which members of TensorRT's objects a piece of source touches, found without running it.

In: Python source. Out: uses: the class, the member, the line, and the conditions that the line stands below. Types
come from where objects are made (`trt.Builder(...)`, `builder.create_network(...)`, and so on along `RETURNS`), from
the names of parameters that are `Any`, and from the attributes that our own classes keep them in. What comes out of
TensorRT and is of no known type may not be used further: then this file has to learn what it is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

MODULE = "module"
ANY_VERSION = "getattr"  # among the conditions of a use that asks whether a member is there

RETURNS = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "Builder.build_serialized_network": "IHostMemory",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "OnnxParser.get_error": "ParserError",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_runtime_config": "IRuntimeConfig",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_serialization_config": "ISerializationConfig",
}
PARAMETERS = {  # of functions, where they are `Any`
    "trt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
KEPT = {"trt": MODULE, "_trt": MODULE, "engine": "ICudaEngine", "_runtime": "Runtime"}  # attributes of our objects
GIVEN = {"context": "IExecutionContext", "read_engine": "ICudaEngine"}  # by methods of our objects


@dataclass(frozen=True)
class Use:
    """`kind.member` at a line; `below` are names that the conditions around it mention."""

    kind: str
    member: str
    line: int
    below: frozenset[str]


@dataclass
class _Reader(ast.NodeVisitor):
    uses: list[Use] = field(default_factory=list)
    names: dict[str, str | None] = field(default_factory=dict)
    own: dict[str, str | None] = field(default_factory=dict)  # attributes of self
    below: frozenset[str] = frozenset()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self.visit(base)
        inner = _Reader(self.uses, dict(self.names), {}, self.below)
        for child in node.body:
            inner.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        inner = _Reader(self.uses, dict(self.names), self.own, self.below)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            free = argument.annotation is None or ast.unparse(argument.annotation) == "Any"
            inner.names[argument.arg] = PARAMETERS.get(argument.arg) if free else None
        for child in (*node.body, *node.decorator_list, *(b for b in node.args.defaults)):
            inner.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.startswith("tensorrt"):
                self.names[alias.asname or alias.name] = MODULE

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=True):
                    self._assign(one, self.kind_of(value))
            else:
                self._assign(target, self.kind_of(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, self.kind_of(node.value))

    def _assign(self, target: ast.expr, kind: str | None) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = kind
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            self.own[target.attr] = kind
        else:
            self.kind_of(target)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if isinstance(node.target, ast.Name):
            self.names[node.target.id] = PARAMETERS.get(node.target.id)
        self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        for generator in node.generators:  # before the element that uses their names
            self.visit(generator)
        self.visit(node.elt)

    visit_ListComp = visit_SetComp = visit_GeneratorExp  # type: ignore[assignment]

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        outside, self.below = self.below, self.below | _held(node.test)
        for child in node.body:
            self.visit(child)
        self.below = outside
        for child in node.orelse:
            self.visit(child)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.kind_of(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.kind_of(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.kind_of(node)

    def kind_of(self, node: ast.expr) -> str | None:
        """The class of an expression's value; its own uses are noted."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._of_attribute(node)
        if isinstance(node, ast.Call):
            return self._of_call(node)
        if isinstance(node, ast.IfExp):
            self.visit(node.test)
            outside, self.below = self.below, self.below | _held(node.test)
            kind = self.kind_of(node.body)
            self.below = outside
            otherwise = self.kind_of(node.orelse)
            return kind or otherwise
        self.generic_visit(node)
        return None

    def _of_attribute(self, node: ast.Attribute) -> str | None:
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self.own.get(node.attr) or KEPT.get(node.attr)
        kind = self.kind_of(node.value)
        if kind is None:
            return KEPT.get(node.attr)
        self.uses.append(Use(kind, node.attr, node.lineno, self.below))
        return node.attr if kind == MODULE else f"{kind}.{node.attr}"

    def _of_call(self, node: ast.Call) -> str | None:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(argument) if not isinstance(argument, ast.Name) else None
        if isinstance(node.func, ast.Name):
            self._asked_for(node)
            return None
        kind = self.kind_of(node.func)
        if kind is None:
            return GIVEN.get(node.func.attr) if isinstance(node.func, ast.Attribute) else None
        return kind if "." not in kind else RETURNS.get(kind, kind)

    def _asked_for(self, node: ast.Call) -> None:
        """`getattr(engine, "name", default)`: fine where it is not there, but some version must have it."""
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3:
            kind, name = self.kind_of(node.args[0]), node.args[1]
            if kind is not None and isinstance(name, ast.Constant):
                self.uses.append(Use(kind, str(name.value), node.lineno, self.below | {ANY_VERSION}))


def _held(test: ast.expr) -> frozenset[str]:
    """Names of what is true where a condition holds: `sms`, `names_gpus` of `settings.sms and release.names_gpus`."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return frozenset().union(*(_held(value) for value in test.values))
    if isinstance(test, ast.Attribute):
        return frozenset({test.attr})
    return frozenset({test.id}) if isinstance(test, ast.Name) else frozenset()


def uses(source: str) -> list[Use]:
    """All of them, in the order of the source."""
    reader = _Reader()
    reader.visit(ast.parse(source))
    return sorted(set(reader.uses), key=lambda use: (use.line, use.kind, use.member))


def unknown(found: list[Use], classes: set[str]) -> Iterator[Use]:
    """Uses of something that came out of TensorRT and is of no known class."""
    return (use for use in found if use.kind != MODULE and use.kind not in classes)
