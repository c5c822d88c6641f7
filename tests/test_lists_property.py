"""CleverTap: `lists_property` is changed while contacts are there."""

from __future__ import annotations

from company import add, company

from syncd.db import Pool


async def test_lists_move_to_the_property_that_the_option_names(database: str, pool: Pool) -> None:
    """Written anew under the new name, taken out of the old one; somebody else's values stay."""
    async with company(database, pool, ["clevertap"]) as at:
        box = at.boxes["clevertap"]
        await pool.execute("insert into syncd.membership values ('vip', 'ann')")
        await at.backfill()
        theirs = {"$add": ["of the app"]}
        box.act("set_property", email="ann@x.test", name="Lists", value=theirs)

        async def renamed(to: str) -> None:
            await pool.execute(
                "update syncd.destination set options = options"
                " || jsonb_build_object('lists_property', $1::text)",
                to,
            )
            await pool.execute("delete from syncd.contact where id = 'cyd'")
            await at.backfill()

        def held(key: str, name: str) -> list[str]:
            return sorted(box.state.profiles.by_identity[key].properties.get(name) or [])

        await renamed("Segments")
        assert held("ann", "Segments") == ["news", "vip"]
        assert held("ann", "Lists") == ["of the app"]
        assert (held("bob", "Segments"), held("bob", "Lists")) == (["news"], [])
        assert (held("cyd", "Segments"), held("cyd", "Lists")) == ([], []), "gone meanwhile"

        await add(pool, "dan")
        await pool.execute("delete from syncd.membership where list_id = 'vip'")
        await at.backfill()
        assert (held("dan", "Segments"), held("ann", "Segments")) == (["news"], ["news"])

        await renamed("Lists")
        for key in ("bob", "dan"):
            assert (held(key, "Segments"), held(key, "Lists")) == ([], ["news"])
        assert held("ann", "Lists") == ["news", "of the app"]
