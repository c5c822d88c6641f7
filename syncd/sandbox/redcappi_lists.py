"""The five calls of RedCappi that are about lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from syncd.sandbox.call import Answer, Call
from syncd.sandbox.redcappi_account import Refused
from syncd.sandbox.redcappi_php import url_decoded

if TYPE_CHECKING:
    from syncd.sandbox.redcappi import RedCappi

HTML = b"<!DOCTYPE HTML PUBLIC><html><head><title>404 Not Found</title></head></html>"
UNSEEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
PLAIN = re.compile(r"[A-Za-z0-9 ._-]*")


class Lists:
    """Read, made, renamed, deleted."""

    def __init__(self, account: RedCappi) -> None:
        self.account = account

    def all_lists(self, call: Call, _apply: bool) -> Any:
        self.account.no_data(call)
        return self._lists(self.account.data.lists)

    def one_list(self, call: Call, _apply: bool) -> Any:
        self.account.no_data(call)
        number = self.account.data.needed(self.account.number(call, "id"))
        return self._lists({number: self.account.data.lists[number]})

    def _lists(self, found: dict[int, str]) -> Any:
        if not found:
            return self.account.nothing()
        if self.account.limits.lists_as == "rows":
            return [{"id": str(number), "name": name} for number, name in found.items()]
        return {str(number): name for number, name in found.items()}

    def add_list(self, call: Call, apply: bool, raw: str) -> Any:
        self.account.no_data(call)
        name = url_decoded(raw.encode()).decode("utf-8", "replace")
        if not PLAIN.fullmatch(name) and self.account.limits.name_in_path != "any":
            if self.account.limits.name_in_path == "404":
                return Answer(404, HTML, "text/html")
            raise Refused(400, "The URI you submitted has disallowed characters.")
        self._fits(call, name)
        if name in self.account.data.lists.values():
            self.account.ledger.violate(call, "list made twice", name)
            if self.account.limits.unique_names:
                raise Refused(409, "List name already exists")
        if not apply:
            return {}
        number = self.account.data.add_list(name)
        self.account.note(call.number, "add list", list=number, name=name)
        tail = f" with list-id {number}" if self.account.limits.tells_list_id else ""
        return {"code": 201, "message": f"List {name} created{tail}"}

    def rename_list(self, call: Call, apply: bool) -> Any:
        self.account.no_data(call)
        number = self.account.data.needed(self.account.number(call, "id"))
        name = "".join(call.query("name")[:1])
        self._fits(call, name)
        others = [other for one, other in self.account.data.lists.items() if one != number]
        if self.account.limits.unique_names and name in others:
            raise Refused(409, "List name already exists")
        if apply:
            self.account.data.lists[number] = name
            self.account.note(call.number, "rename list", list=number, name=name)
        return {"code": 201, "message": f"List renamed to {name}"}

    def _fits(self, call: Call, name: str) -> None:
        if not name or len(name) > 100 or UNSEEN.search(name):
            self.account.ledger.violate(call, "list name", f"{len(name)} characters")
        if not self.account.limits.shortest_name <= len(name) <= self.account.limits.longest_name:
            raise Refused(400, "List name must have 5 to 100 characters")

    def delete_list(self, call: Call, apply: bool, number: str) -> Any:
        self.account.no_data(call)
        self.account.data.needed(int(number))
        if apply:
            self.account.data.delete_list(int(number))
            self.account.note(call.number, "delete list", list=int(number))
        return {"code": 200, "message": "List removed"}
