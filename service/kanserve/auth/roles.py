"""Roles, the roles that each includes, and the error text for a missing role."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kanserve.errors import Forbidden, Unauthenticated


class Role(enum.StrEnum):
    """Permission of a caller. `infer` and `interpret` include `read`, and `admin` includes all roles."""

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
    """Caller, by its name in the token file.

    roles    all roles, with those that they include
    known    False for a caller without a credential
    expires  seconds since 1970, or None
    mark     the credential as in the file, so that another one under the same name is another caller
    """

    name: str
    roles: frozenset[Role]
    known: bool = True
    expires: float | None = None
    mark: str = field(default="", repr=False)


AUTHORIZATION_HINT = "send the metadata or header `authorization: Bearer TOKEN`"
NOBODY = Principal("", frozenset(), known=False)
EVERYONE = Principal("", frozenset(Role))  # of a server without credentials


def including(roles: frozenset[Role]) -> frozenset[Role]:
    """The roles, and the roles that they include."""
    return frozenset().union(*(INCLUDES[role] for role in roles))


def require(caller: Principal, role: Role) -> None:
    """Raises Unauthenticated if the caller presented no credential, Forbidden if the caller lacks the role."""
    if role in caller.roles:
        return
    if not caller.known:
        raise Unauthenticated(
            f"this call needs the role {role}, but has no credential",
            code="credential-missing",
            hint=AUTHORIZATION_HINT,
        )
    raise Forbidden(
        f"this call needs the role {role}, which {caller.name} does not have",
        code="role-missing",
        hint=f"use a token with the role {role}, or add the role to {caller.name} in the token file",
    )
