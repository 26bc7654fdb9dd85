"""`python -m tests.fakes.router_without_shares`: the mutant of a router that gives its calls to whoever comes first."""

from __future__ import annotations

from services.router.main import main
from services.router.request.intake import Shares

Shares.of = classmethod(lambda cls, calls: cls(calls, calls))  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    main()
