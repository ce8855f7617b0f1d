"""Roles, what each includes, and what a caller who lacks one is told."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kanserve.errors import Forbidden, Unauthenticated


class Role(enum.StrEnum):
    """What a caller may do. Whoever may run a model may also read what it takes; nothing else includes another role,
    but for `admin`, which includes all."""

    READ = "read"  # names, states, inputs and outputs, statistics
    INFER = "infer"  # run models
    INTERPRET = "interpret"  # edge values and forms, which reveal the model
    ADMIN = "admin"  # load, unload, switch


INCLUDES: dict[Role, frozenset[Role]] = {
    Role.READ: frozenset({Role.READ}),
    Role.INFER: frozenset({Role.INFER, Role.READ}),
    Role.INTERPRET: frozenset({Role.INTERPRET, Role.READ}),
    Role.ADMIN: frozenset(Role),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, by the name in the file of tokens, with every role that theirs include. `known` False: nobody that
    showed a credential. `expires`: seconds since 1970. `mark`: the credential as in the file, so that another one under
    the same name is another caller."""

    name: str
    roles: frozenset[Role]
    known: bool = True
    expires: float | None = None
    mark: str = field(default="", repr=False)


NOBODY = Principal("", frozenset(), known=False)
EVERYONE = Principal("", frozenset(Role))  # of a server without credentials


def including(roles: frozenset[Role]) -> frozenset[Role]:
    """These, and what they include."""
    return frozenset().union(*(INCLUDES[role] for role in roles))


def require(caller: Principal, role: Role) -> None:
    """Raises Unauthenticated for one who showed nothing, Forbidden for one who lacks the role."""
    if role in caller.roles:
        return
    if not caller.known:
        raise Unauthenticated(
            f"this needs the role {role}, and no credential was shown: send the metadata or header "
            "`authorization: Bearer TOKEN`"
        )
    raise Forbidden(f"this needs the role {role}, which {caller.name} does not have")
