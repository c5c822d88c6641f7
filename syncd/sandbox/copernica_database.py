"""Copernica's calls about the account and its database: fields, interests, unsubscribing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.copernica_account import Column, Refused

if TYPE_CHECKING:
    from syncd.sandbox.copernica import Copernica


class Definitions:
    """What is around the profiles."""

    def __init__(self, copernica: Copernica) -> None:
        self.copernica = copernica

    def identity(self, _call: Call, _apply: bool) -> Answer:
        number = self.copernica.limits.account
        told = {"id": number, "name": "Contacts team", "description": "", "company": "Example"}
        return answered(told)

    def database(self, _call: Call, _apply: bool, name: str) -> Answer:
        data = self._at(name)
        return answered(
            {
                "ID": str(data.database),
                "name": data.name,
                "description": "",
                "archived": False,
                "created": "2013-01-06 14:19:51",
                "fields": self._inside([one.shown() for one in data.columns.values()]),
                "interests": self._inside(self._interests()),
                "collections": self._inside([]),
            }
        )

    def _inside(self, rows: list[Any]) -> dict[str, Any]:
        most = self.copernica.limits.inside
        cut = rows[:most]
        return {"start": 0, "limit": most, "count": len(cut), "data": cut, "total": len(rows)}

    def _interests(self) -> list[dict[str, str]]:
        found = self.copernica.data.interests
        return [{"ID": str(n), "name": name, "group": g} for n, (name, g) in found.items()]

    def _at(self, name: str) -> Any:
        data = self.copernica.data
        self.copernica.at(name)
        return data

    # ── Fields ──────────────────────────────────────────────────────────────────────────────

    def fields(self, call: Call, _apply: bool, name: str) -> Answer:
        rows = [one.shown() for one in self._at(name).columns.values()]
        return self.copernica.wrapped(call, rows)

    def add_field(self, call: Call, apply: bool, name: str) -> Answer:
        data, said = self._at(name), self.copernica.body(call)
        spelt = str(said.get("name") or "")
        if data.column(spelt):
            self.copernica.ledger.violate(call, "field made twice", spelt)
        if not apply:
            return self.copernica.created(call, "field", 0)
        made = data.add_column(
            spelt,
            str(said.get("type") or "text"),
            str(said.get("value") or ""),
            int(said.get("length") or 255),
            bool(said.get("index")),
        )
        made.displayed = bool(said.get("displayed", True))
        self.copernica.note(call.number, "add field", name=spelt, wrote=said)
        return self.copernica.created(call, "field", made.id)

    def edit_field(self, call: Call, apply: bool, name: str, field: str) -> Answer:
        data, said = self._at(name), self.copernica.body(call)
        column = self._column(data, field)
        if apply and "name" in said:
            data.rename_column(column, str(said["name"]))
            self.copernica.note(call.number, "rename field", field=column.id, name=column.name)
        return self.copernica.put(call, "field", column.id)

    def drop_field(self, call: Call, apply: bool, name: str, field: str) -> Answer:
        data = self._at(name)
        column = self._column(data, field)
        if apply:
            data.drop_column(column)
            self.copernica.note(call.number, "delete field", field=column.id, name=column.name)
        return self.copernica.deleted(f"field {column.id}")

    @staticmethod
    def _column(data: Any, field: str) -> Column:
        found = data.columns.get(int(field)) if field.isdigit() else data.column(field)
        if found is None:
            raise Refused("Failed to get the field")
        column: Column = found
        return column

    # ── Interests ───────────────────────────────────────────────────────────────────────────

    def interests(self, call: Call, _apply: bool, name: str) -> Answer:
        self._at(name)
        return self.copernica.wrapped(call, self._interests())

    def add_interest(self, call: Call, apply: bool, name: str) -> Answer:
        data, said = self._at(name), self.copernica.body(call)
        spelt, group = str(said.get("name") or ""), str(said.get("group") or "")
        if (spelt, group) in data.interests.values():
            self.copernica.ledger.violate(call, "interest made twice", f"{group}/{spelt}")
        number = data.add_interest(spelt, group) if apply else 0
        self.copernica.note(call.number, "add interest", name=spelt, group=group)
        return self.copernica.created(call, "interest", number)

    def edit_interest(self, call: Call, apply: bool, number: str) -> Answer:
        self._interest(call, number)
        said = self.copernica.body(call)
        if apply:
            name, group = str(said.get("name")), str(said.get("group") or "")
            self.copernica.data.rename_interest(int(number), name, group)
        return self.copernica.put(call, "interest", int(number))

    def drop_interest(self, call: Call, apply: bool, number: str) -> Answer:
        self._interest(call, number)
        if apply:
            name, _ = self.copernica.data.interests.pop(int(number))
            for one in self.copernica.data.profiles.values():
                one.interests.discard(name)
        return self.copernica.deleted(f"interest {number}")

    def _interest(self, call: Call, number: str) -> None:
        if self.copernica.version(call) == "v1":
            self.copernica.ledger.violate(call, "version", "v1 has no such call")
            raise Refused("Invalid method")
        if int(number) not in self.copernica.data.interests:
            raise Refused("No entity with supplied ID")

    # ── Unsubscribing ───────────────────────────────────────────────────────────────────────

    def unsubscribe(self, _call: Call, _apply: bool, name: str) -> Answer:
        behaviour = self._at(name).behaviour
        fields = behaviour["fields"] or []  # PHP has no empty object
        return answered({"behavior": behaviour["behavior"], "fields": fields})
