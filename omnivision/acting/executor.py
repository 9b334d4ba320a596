"""Runs calls that a policy allows, innermost first, and says of each what became of it. A dry run unless told."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from omnivision.acting.audit import Audit
from omnivision.acting.policy import ASK, NEVER, Policy, Rule
from omnivision.acting.program import Failed, TimedOut
from omnivision.errors import OmniError, ResumableError
from omnivision.functions.calls import Action, Calls
from omnivision.functions.function_set import IRRELEVANT, FunctionSet
from omnivision.functions.literals import literal

DONE, FAILED, TIMED_OUT = "done", "failed", "timed out"  # after these something has run; after the others nothing has
DRY_RUN = "dry run"
NOTHING = "nothing to do"  # `irrelevant`
NOT_ALLOWED = "not allowed"  # no rule, or the rule says never, or nothing is known that would do it
DECLINED = "declined"  # a person was to be asked, and did not say yes
INVALID = "invalid"  # unknown to the set, or the arguments do not fit, those that inner calls gave too
NOT_REACHED = "not reached"  # a call inside or before it was not done, the call around it does not run, or a part of the answer is malformed
BEGUN = "begun"  # in the audit only, before a call runs
MALFORMED = "malformed"  # in the audit only: a part of an answer that is no call


@dataclass(frozen=True)
class Deed:
    """What became of one call."""

    action: Action
    outcome: str
    policy: str | None = None
    result: object = None  # where it is done
    reason: str = ""  # where it is not
    seconds: float = 0.0
    nested: dict[str, Deed] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """For JSON: the call and its outcome, nested ones inside."""
        found = {"name": self.action.name, "arguments": self.action.arguments, "span": list(self.action.span), "policy": self.policy,
                 "outcome": self.outcome, "seconds": round(self.seconds, 3)}
        found |= {"result": self.result} if self.outcome == DONE else {}
        found |= {"reason": self.reason} if self.reason else {}
        return found | ({"nested": {name: one.to_dict() for name, one in self.nested.items()}} if self.nested else {})


class Executor:
    """Acts on calls.

    Args:
        functions: the set whose schemas arguments have to fit.
        policy: what may run; None where none is known: a dry run then says nothing of it.
        execute: False says only what would happen.
        ask: given a call and its complete arguments, whether a person says yes; None is nobody there.
        audit: where a line of each call goes; needed to execute.

    Raises:
        ValueError: to execute without a policy or an audit.
    """

    def __init__(self, functions: FunctionSet, policy: Policy | None, *, execute: bool = False, ask: Callable[[Action, dict], bool] | None = None,
                 audit: Audit | None = None) -> None:
        if execute and (policy is None or audit is None):
            raise ValueError("To execute, give a policy and an audit.")
        self.functions, self.rules, self.execute, self.ask, self.audit = functions, policy, execute, ask, audit
        self.ran: list[str] = []  # names of what has been started

    def act_all(self, calls: Calls) -> Iterator[Deed]:
        """Run the calls of one answer in their order: none where a part of it is malformed, and no more once one is not done.

        A dry run judges them all, and says which would not be reached.

        Raises:
            As act.
        """
        for error in calls.errors:
            self._write({"name": error.name, "span": list(error.span), "outcome": MALFORMED, "reason": f"{error.kind}: {error.message}"})
        malformed, hindered = "a part of the answer is malformed" if calls.errors else "", ""
        for action in calls:
            unread = malformed or self.execute and hindered
            deed = self._unreached(action, unread) if unread else self._act(action, hindered)
            yield deed
            if deed.outcome not in (self._good, NOTHING):
                hindered = f"a call before it {self._not_done}"

    def act(self, action: Action) -> Deed:
        """Run one call and the calls inside it, as far as the policy allows.

        What ends this program in the middle of a call stands in the audit before it goes on.

        Raises:
            ResumableError: the audit cannot be written, and nothing has run. OmniError: it cannot be written any more; names what has run.
        """
        return self._act(action)

    @property
    def _good(self) -> str:
        """The outcome of a call that does not stand in the way of others."""
        return DONE if self.execute else DRY_RUN

    @property
    def _not_done(self) -> str:
        return "was not done" if self.execute else "would not be done"

    def _act(self, action: Action, hindered: str = "") -> Deed:
        rule = self.rules.get(action.name) if self.rules is not None else None
        barred = self._barred(action, rule)
        if barred:
            nested = {name: self._unreached(one) for name, one in action.nested.items()}
            return self._noted(Deed(action, barred[0], rule and rule.policy, reason=barred[1], nested=nested))
        nested: dict[str, Deed] = {}
        for name, one in action.nested.items():  # once one is not done, the call around them cannot run, and the others are for nothing
            hopeless = self.execute and any(deed.outcome != DONE for deed in nested.values())
            nested[name] = self._unreached(one) if hopeless else self._act(one, hindered)
        stopped = self._stopped(action, nested, hindered)
        if stopped:
            return self._noted(Deed(action, stopped[0], rule and rule.policy, reason=stopped[1], nested=nested))
        return self._run(action, rule, nested)

    def _barred(self, action: Action, rule: Rule | None) -> tuple[str, str] | None:
        """Why a call would not be run whatever the calls inside it gave, if so."""
        if action.name not in self.functions:
            return INVALID, "the set has no such function"
        if action.name == IRRELEVANT:
            return NOTHING, ""
        if self.rules is not None and (rule is None or rule.policy == NEVER):
            return NOT_ALLOWED, "no rule allows it" if rule is None else "the rule says never"
        if rule is not None and rule.run is None:
            return NOT_ALLOWED, "the rule names nothing to run"
        if self.execute and rule.policy == ASK and self.ask is None:
            return DECLINED, "there is nobody to ask"
        faults = self.functions[action.name].faults(action.arguments, [*action.nested])
        return (INVALID, faults[0][1]) if faults else None

    def _unreached(self, action: Action, reason: str = "the call around it does not run") -> Deed:
        nested = {name: self._unreached(one) for name, one in action.nested.items()}
        return self._noted(Deed(action, NOT_REACHED, reason=reason, nested=nested))

    def _stopped(self, action: Action, nested: dict[str, Deed], hindered: str) -> tuple[str, str] | None:
        """Why a call is not run now that the calls inside it are over, if so."""
        missing = [name for name, deed in nested.items() if deed.outcome != self._good]
        if hindered or missing:
            return NOT_REACHED, hindered or f"the call in argument {missing[0]!r} {self._not_done}"
        if not self.execute:
            return DRY_RUN, ""
        faults = self.functions[action.name].faults(_complete(action, nested))
        return (INVALID, f"with the results of the calls inside: {faults[0][1]}") if faults else None

    def _run(self, action: Action, rule: Rule, nested: dict[str, Deed]) -> Deed:
        arguments = _complete(action, nested)
        if rule.policy == ASK and not (self.ask and self.ask(action, arguments)):
            return self._noted(Deed(action, DECLINED, rule.policy, reason="nobody said yes", nested=nested))
        self._noted(Deed(action, BEGUN, rule.policy, nested=nested))
        self.ran.append(action.name)
        started, result, outcome, reason = time.monotonic(), None, DONE, ""
        try:
            result = rule.run(arguments, rule.seconds)
            literal(result, "result")  # the audit and an outer call take JSON values only
        except TimedOut as error:
            outcome, reason = TIMED_OUT, str(error)
        except Exception as error:  # noqa: BLE001 - whatever a user's own function raises is that call's failure
            outcome, reason = FAILED, str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        except BaseException:  # Ctrl-C, a signal
            self._noted(Deed(action, FAILED, rule.policy, reason="this program was stopped; the call may have run in part", seconds=time.monotonic() - started, nested=nested))
            raise
        return self._noted(Deed(action, outcome, rule.policy, result if outcome == DONE else None, reason, time.monotonic() - started, nested))

    def _noted(self, deed: Deed) -> Deed:
        self._write(deed.to_dict())
        return deed

    def _write(self, entry: dict) -> None:
        try:
            if self.audit:
                self.audit.write(entry)
        except ResumableError as error:
            if not self.ran:
                raise
            raise OmniError(f"{', '.join(self.ran)} HAS run, and the audit takes no more: {error.what}", error.where,
                            "Do not start the same command again: nothing more has run, and the audit says what had begun.") from error


def _complete(action: Action, nested: dict[str, Deed]) -> dict:
    """The arguments with the results of the calls inside, as values of their own: what a function does to them is not in the audit's."""
    return copy.deepcopy({**action.arguments, **{name: deed.result for name, deed in nested.items()}})
