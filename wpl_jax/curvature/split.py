"""A loss in two parts: what is done to parameters alone, and where they meet examples.

A loss of one example is traced and its operations are divided. Those on parameters and
constants alone (transposes, casts, ``w / sqrt(n)``, weight standardization) are run
once, whatever the number of examples; their results that operations on examples read
are *met*. Those on examples are run for all of them at once. An operation of the
second kind that reads a met value which depends on parameters is a *site*. The
gradient of example ``i`` in a met value is the sum over its sites of what the
site's arguments and the gradient in its result of that example give
(:mod:`wpl_jax.curvature.sites`).

Loops (``lax.scan``) that read both are divided as well: a loop over the first kind,
which stacks what is met, and a loop over the second. So a site in a loop is a site for
each time step, with the arguments of all of them at hand.
"""

import itertools
from typing import Any

import jax

from wpl_jax.curvature.operations import (
    Arrays,
    Batched,
    Carry,
    Level,
    Loop,
    Site,
    Step,
    run_steps,
)
from wpl_jax.curvature.patches import as_product
from wpl_jax.curvature.program import (
    EXAMPLE,
    Origins,
    Program,
    as_function,
    count_scanned,
    flatten,
    holds_program,
    is_inexact,
    origins,
    output_origins,
)


class Split:
    """A loss in its two parts.

    Attributes:
      met: Names of what operations on examples read without depending on them.
      sites: Where parameters meet examples.
      output: Name of the loss.
    """

    def __init__(self, closed: Any, num_params: int):
        """Divides a loss.

        Args:
          closed: Jaxpr of ``loss(*parameters, *leaves of an example)``.
          num_params: How many of its arguments are parameters.
        """
        self._names = itertools.count()
        self.avals: dict[int, Any] = {}
        self.origins: dict[int, Origins] = {}
        self.levels: dict[int, Level] = {}
        self.constants: Arrays = {}
        self.met: list[int] = []
        self.root = Level()
        self._computed: dict[Any, list[int]] = {}
        program = flatten(closed)
        inputs = [
            self._value(program.avals[v], {i} if i < num_params else {EXAMPLE})
            for i, v in enumerate(program.inputs)
        ]
        self.params, self.example = inputs[:num_params], inputs[num_params:]
        (self.output,) = self._add(self.root, program, inputs)
        if not self.is_batched(self.output):
            self.output = self._lift(self.root, self.output)
        self.sites = self.root.sites

    def is_batched(self, name: int) -> bool:
        """Whether a value depends on the example."""
        return EXAMPLE in self.origins[name]

    def root_of(self, name: int) -> tuple[int, list[Level]]:
        """The met value outside of all loops that a value is, or is a slice of.

        Args:
          name: A value without examples.

        Returns:
          Its name, and the loops over its leading axes, from the outermost.
        """
        loops: list[Level] = []
        while (level := self.levels[name]) is not self.root:
            loops.insert(0, level)
            name = level.emitted[name]
        return name, loops

    def steps_to(self, names: list[int]) -> list[Step]:
        """The operations without examples that compute some values."""
        wanted, steps = set(names), []
        for step in reversed(self.root.steps):
            if wanted.intersection(step.outputs):
                wanted.update(step.inputs)
                steps.append(step)
        return steps[::-1]

    def axes(self, names: list[int]) -> tuple[int | None, ...]:
        """Where the axis of the examples is: 0, or None for values without it."""
        return tuple(0 if self.is_batched(v) else None for v in names)

    def _value(self, aval, depends, level: Level | None = None) -> int:
        name = next(self._names)
        self.avals[name], self.origins[name] = aval, frozenset(depends)
        self.levels[name] = level or self.root
        return name

    def _add(self, level: Level, program: Program, inputs: list[int]) -> list[int]:
        """Adds the operations of a program to a level."""
        here = dict(zip(program.inputs, inputs, strict=True))
        for v, constant in program.constants.items():
            here[v] = self._value(program.avals[v], ())
            self.constants[here[v]] = constant
        for node in program.nodes:
            arguments = [here[v] for v in node.inputs]
            if not any(map(self.is_batched, arguments)):
                results = self._without_examples(node.equation, arguments)
            elif node.equation.primitive.name == "scan" and any(
                self.origins[v] - {EXAMPLE} and not self.is_batched(v)
                for v in arguments
            ):
                results = self._loop(level, node.equation, arguments)
            else:
                results = self._with_examples(level, node.equation, arguments)
            here.update(zip(node.outputs, results, strict=True))
        return [here[v] for v in program.outputs]

    def _without_examples(self, equation, inputs: list[int]) -> list[int]:
        # What is computed twice in the same way, as a cast or a transpose before each
        # use, is one value.
        simple = not holds_program(equation)
        key = (equation.primitive.name, str(equation.params), tuple(inputs))
        if simple and key in self._computed:
            return self._computed[key]
        level = max(
            (self.levels[v] for v in inputs), key=Level.depth, default=self.root
        )
        outputs = [
            self._value(var.aval, depends, level)
            for var, depends in zip(
                equation.outvars,
                origins(equation, [self.origins[v] for v in inputs]),
                strict=True,
            )
        ]
        level.steps.append(Step(equation, as_function(equation), inputs, outputs))
        if simple:
            self._computed[key] = outputs
        return outputs

    def _with_examples(self, level: Level, equation, inputs: list[int]) -> list[int]:
        for v in inputs:
            self._meet(v)
        positions = [
            i
            for i, v in enumerate(inputs)
            if self.origins[v] and not self.is_batched(v)
        ]
        avals = [var.aval for var in equation.outvars]
        outputs = [self._value(aval, {EXAMPLE}, level) for aval in avals]
        function = as_function(equation)
        site = None
        if positions and any(map(is_inexact, avals)):
            site = self._site(level, equation, function, inputs, positions, avals)
            if positions == [1]:
                function = as_product(equation) or function
        level.batched.append(Batched(function, inputs, outputs, site))
        return outputs

    def _lift(self, level: Level, name: int) -> int:
        """Takes a value without examples for every example."""
        if self.is_batched(name):
            return name
        self._meet(name)
        output = self._value(self.avals[name], {EXAMPLE}, level)

        def function(x):
            return [x]

        site = None
        if self.origins[name]:
            avals = [self.avals[name]]
            site = self._site(level, None, function, [name], [0], avals)
        level.batched.append(Batched(function, [name], [output], site))
        return output

    def _site(self, level, equation, function, inputs, positions, avals) -> Site:
        number = len(self.root.sites)
        site = Site(number, equation, function, inputs, positions, level, avals)
        for each in [self.root, *level.path()]:
            each.sites.append(site)
        return site

    def _meet(self, name: int) -> None:
        """Notes that an operation on examples reads a value."""
        if self.is_batched(name):
            return
        home = self.levels[name]
        if home is not self.root:
            self._meet(self._emit(home, name))
        elif name not in self.met:
            self.met.append(name)

    def _emit(self, loop: Level, name: int) -> int:
        """The stack of a value over the steps of a loop."""
        if name not in loop.emitted:
            if name in loop.slices:
                loop.emitted[name] = loop.slices[name]
            else:
                aval = self.avals[name]
                stacked = jax.ShapeDtypeStruct((loop.length, *aval.shape), aval.dtype)
                loop.emitted[name] = self._value(
                    stacked, self.origins[name], loop.parent
                )
        return loop.emitted[name]

    def _loop(self, level: Level, equation, inputs: list[int]) -> list[int]:
        params = equation.params
        body = flatten(params["jaxpr"])
        first, num_carries = count_scanned(equation)
        last = first + num_carries
        loop = Level(level, params["length"])
        carried = self._carried(body, inputs, first, last)
        inner, before = list(inputs[:first]), []
        for v, inside, depends in zip(
            inputs[first:last], body.inputs[first:last], carried, strict=True
        ):
            before.append(self._lift(level, v) if EXAMPLE in depends else v)
            inner.append(self._value(body.avals[inside], depends, loop))
        for v, inside in zip(inputs[last:], body.inputs[last:], strict=True):
            inner.append(self._value(body.avals[inside], self.origins[v], loop))
            if not self.is_batched(v):
                loop.slices[inner[-1]] = v
        following = self._add(loop, body, inner)

        results, carries, bare = [], [], []
        for i, depends in enumerate(carried):
            inside = inner[first + i]
            after = self._value(body.avals[body.inputs[first + i]], depends, level)
            results.append(after)
            if EXAMPLE in depends:
                lifted = self._lift(loop, following[i])
                carries.append(Carry(before[i], inside, lifted, after))
            else:
                bare.append(Carry(before[i], inside, following[i], after))
        stacks = []
        for v, var in zip(
            following[len(carried) :], equation.outvars[len(carried) :], strict=True
        ):
            if self.is_batched(v):
                results.append(self._value(var.aval, {EXAMPLE}, level))
                stacks.append((v, results[-1]))
            else:
                results.append(self._emit(loop, v))
        options = {name: params[name] for name in ("reverse", "unroll")}
        options["length"] = loop.length
        self._loop_without_examples(level, loop, options, bare)
        slices = [
            (v, inside)
            for v, inside in zip(inputs[last:], inner[last:], strict=True)
            if self.is_batched(v)
        ]
        level.batched.append(Loop(loop, options, carries, slices, stacks))
        return results

    def _carried(self, body: Program, inputs, first: int, last: int) -> list[Origins]:
        """What each carry of a loop depends on in the end."""
        depends = [self.origins[v] for v in inputs]
        while True:
            found = output_origins(body, depends)[: last - first]
            wider = [a | b for a, b in zip(depends[first:last], found, strict=True)]
            if wider == depends[first:last]:
                return wider
            depends[first:last] = wider

    def _loop_without_examples(self, level, loop, options, carries) -> None:
        """The loop over what is done in it to parameters and constants alone."""
        emitted = {v: s for v, s in loop.emitted.items() if v not in loop.slices}
        if not emitted and not carries:
            return
        slices = loop.slices
        own = {*slices, *(c.inside for c in carries)}
        own.update(v for step in loop.steps for v in step.outputs)
        read = [v for step in loop.steps for v in step.inputs]
        read += [*emitted, *(c.following for c in carries)]
        outer = list(dict.fromkeys(v for v in read if v not in own))
        inputs = [*outer, *(c.before for c in carries), *slices.values()]

        def function(*arrays):
            outside = dict(zip(outer, arrays[: len(outer)], strict=True))
            start = arrays[len(outer) : len(outer) + len(carries)]
            xs = arrays[len(outer) + len(carries) :]

            def body(carry, xs):
                env = self.constants | outside
                env |= dict(zip((c.inside for c in carries), carry, strict=True))
                env |= dict(zip(slices, xs, strict=True))
                run_steps(loop.steps, env)
                return [env[c.following] for c in carries], [env[v] for v in emitted]

            end, stacks = jax.lax.scan(body, list(start), list(xs), **options)
            return [*end, *stacks]

        outputs = [*(c.after for c in carries), *emitted.values()]
        level.steps.append(Step(None, function, inputs, outputs))
