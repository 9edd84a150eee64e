"""The page of graphs: what it holds, and in a browser what it shows, lights and finds."""

import json
import re
from urllib.parse import quote

import pytest

from experimentator.diagram import DiagramError, page, save
from experimentator.graph import Graph, Mode, describe_graph, fold, from_json, with_costs
from tests.browser import browsed, in_a_browser, text_of
from tests.graph.test_pictures import ODD
from tests.pictures import needs_pictures
from tests.stubs import mix

pytestmark = needs_pictures

STEPS = [
    mix("x -> h", node="Trunk"),
    mix("h -> a", node="Left"),
    mix("h y -> loss", node="Right"),
    mix("a -> loss_left", node="End"),
]


def graph(mode=Mode.ALL):
    return Graph(STEPS, provided={"x", "y"}, mode=mode).select("loss", "loss_left")


def chain(length, name=None):
    steps = [mix(f"x{step} -> x{step + 1}", node=name if step == 1 else f"Step {step}") for step in range(length)]
    return Graph(steps, provided={"x0"}).select(f"x{length}")


def views_of(text):
    return json.loads(re.search(r"const VIEWS = (.*);  //", text)[1])


def test_a_page_holds_what_each_view_shows():
    described = with_costs(describe_graph(graph()), {"Trunk": 0.5})

    views = views_of(page({"one": described, "other": graph().select("loss")}))

    assert [view["label"] for view in views] == ["one", "other"]
    assert from_json(json.dumps(views[0]["drawings"][0])) == described
    assert [box["name"] for box in views[1]["drawings"][0]["boxes"]] == ["Trunk", "Right"]


def test_every_box_port_and_edge_of_the_drawing_is_one_of_the_description():
    description = describe_graph(graph())

    text = page({"graph": description})

    assert sorted(re.findall(r'data-box="(\w+)"', text)) == sorted(made.id for made in description.drawn)
    drawn = re.findall(r'data-source="(\w+)" data-target="(\w+)"', text)
    assert sorted(drawn) == sorted({(edge.source, edge.target) for edge in description.edges})


def test_an_input_that_is_drawn_beside_each_reader_is_one_of_the_description():
    steps = [mix(f"x -> y{step}") for step in range(6)]

    text = page({"graph": Graph(steps, provided={"x"}).select(*[f"y{step}" for step in range(6)])})

    assert re.findall(r'data-box="(in\d+)"', text) == ["in0"] * 6


def test_what_is_folded_can_be_unfolded_unless_it_is_very_large_or_asked_for_whole():
    def boxes(*asked, **options):
        (view,) = views_of(page({"graph": chain(*asked)}, **options))
        return [len(drawing["boxes"]) for drawing in view["drawings"]]

    folded, unfolded = boxes(60)
    assert (folded < 40, unfolded) == (True, 60)
    assert len(boxes(500)) == 1
    assert boxes(60, fold=False) == [60]


def test_a_page_asks_nobody_for_anything(tmp_path):
    save(graph(), tmp_path / "graph.html")

    text = (tmp_path / "graph.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="|url\(|@import|fetch\(', text)


def test_themes_are_as_in_pictures():
    assert "prefers-color-scheme: dark" in page({"graph": graph()})
    light, dark = (page({"graph": graph()}, theme=theme) for theme in ("light", "dark"))
    assert "color-scheme: light" in light
    assert "prefers-color-scheme" not in light + dark


def test_a_page_of_nothing_is_refused():
    with pytest.raises(DiagramError, match="no views"):
        page({})


@pytest.mark.parametrize("name", [*ODD, "</script><script>document.title = 'taken'</script>", "<!-- views -->"])
def test_no_name_is_read_as_markup(name):
    text = page({name: chain(3, name)})

    assert text.count("<script") == text.count("</script>") == 1
    assert views_of(text)[0]["drawings"][0]["boxes"][1]["name"].split() == name.split()


def lit(text):
    """The ids of the boxes that are lit."""
    found = re.findall(r'<g id="node\d+" class="node([^"]*)" data-box="(\w+)"', text)
    return {box for classes, box in found if "lit" in classes.split()}


def panel(text):
    return text_of(text, '<aside id="panel">', "</aside>")


@in_a_browser
def test_a_processor_lights_what_it_needs_and_what_needs_it(tmp_path):
    shown = browsed(page({"graph": graph()}), "at=Left", tmp_path)

    names = {box.id: box.name for box in describe_graph(graph()).drawn}
    assert {names[box] for box in lit(shown)} == {"x", "Trunk", "Left", "End", "loss_left"}
    assert re.search(r"Left .* reads .* h .* from .* Trunk .* writes .* a .* to .* End", panel(shown), re.DOTALL)


@in_a_browser
def test_a_tensor_lights_its_writer_and_its_readers(tmp_path):
    shown = browsed(page({"graph": graph()}), "tensor=h@1", tmp_path)

    names = {box.id: box.name for box in describe_graph(graph()).boxes}
    assert {names[box] for box in lit(shown)} == {"Trunk", "Left", "Right"}


@in_a_browser
def test_what_is_found_is_lit_and_listed_also_within_what_is_folded(tmp_path):
    shown = browsed(page({"graph": chain(60)}), "find=step%2042", tmp_path)

    assert len(lit(shown)) == 1
    assert "1 found" in shown


@in_a_browser
def test_a_view_is_asked_for_by_its_name_and_no_name_becomes_markup(tmp_path):
    name = "<b>bold</b></script><script>document.title = 'taken'</script>"
    shown = browsed(page({"small": graph(), "other": chain(3, name)}), "view=other&at=Step%202", tmp_path)

    assert re.search(r'data-view="0"[^>]* hidden', shown)
    assert not re.search(r'data-view="1"[^>]* hidden', shown)
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown
    assert "<title>taken" not in shown
    assert "Step 2" in panel(shown)


@in_a_browser
def test_each_of_several_inputs_that_are_drawn_as_one_is_found_and_shown(tmp_path):
    names = [f"i{number}" for number in range(7)]
    joined = [mix(f"{' '.join(names)} -> x", node="Join")]
    drawn = fold(describe_graph(Graph(joined, provided=names).select("x")), above=0)
    text = page({"graph": drawn})

    assert "in0" in lit(browsed(text, "find=i3", tmp_path))
    assert re.search(r"tensors .* i0 .* to .* Join .* i3 .* to .* Join", panel(browsed(text, "at=i3", tmp_path)))


@in_a_browser
@pytest.mark.parametrize("cost, told", [(0.125, "125 ms"), (0.0, "about 0"), (0.9996, "1 s")])
def test_the_cost_of_a_processor_is_told_as_in_the_picture(cost, told, tmp_path):
    text = page({"graph": with_costs(describe_graph(graph()), {"Trunk": cost})})

    assert told in text
    assert re.search(rf"cost\s+{told}", panel(browsed(text, "at=Trunk", tmp_path)))


@in_a_browser
def test_a_tensor_may_have_any_name(tmp_path):
    steps = [mix("x -> constructor"), mix("constructor -> constructor", node="Twice")]
    text = page({"graph": Graph(steps, provided={"x"}).select("constructor")})

    assert re.search(r"reads .* constructor@1 .* writes .* constructor@2", panel(browsed(text, "at=Twice", tmp_path)))
    assert "In order of execution" in panel(browsed(text, "tensor=toString", tmp_path))


@in_a_browser
def test_an_address_leads_to_each_box_also_to_a_folded_one_and_to_ports_of_the_name_of_a_processor(tmp_path):
    steps = [mix(f"x{step} -> x{step + 1}", node="x0" if step == 4 else f"Step {step}") for step in range(60)]
    graph = Graph(steps, provided={"x0"}).select("x60")
    text = page({"graph": graph})
    (folded, *_) = [box for box in views_of(text)[0]["drawings"][0]["boxes"] if box.get("folded")]

    def chosen(at):
        return re.findall(r'class="[^"]*chosen[^"]*" data-box="(\w+)"', browsed(text, at, tmp_path))

    assert chosen(f"at={quote(folded['name'])}") == [folded["id"]]
    assert chosen("unfold&at=x0") == ["p4"]
    assert chosen("unfold&at=in0") == ["in0"]


@in_a_browser
def test_what_is_chosen_comes_into_view_and_says_its_name(tmp_path):
    text = page({"graph": graph()})
    far = text.replace("follow();\n</script>", "follow();\nlook({x: -900, y: -900, width: 9, height: 9});\n</script>")
    chosen = far.replace("height: 9});", "height: 9});\nchoose({id: 'p1'});")

    def view(page):
        return re.findall('viewBox="(.*?)"', page)

    assert view(browsed(far, "", tmp_path)) == ["-900 -900 9 9"]
    shown = browsed(chosen, "", tmp_path)
    assert view(shown) != ["-900 -900 9 9"]
    assert 'role="button" aria-label="Left"' in shown


@in_a_browser
def test_a_choice_is_kept_when_it_is_unfolded(tmp_path):
    text = page({"graph": chain(60)})
    (folded, *_) = [box for box in views_of(text)[0]["drawings"][0]["boxes"] if box.get("folded")]

    unfolded = browsed(
        text.replace("follow();\n</script>", "follow();\n$('unfold').click();\n</script>"),
        f"at={quote(folded['name'])}",
        tmp_path,
    )

    assert f"<h2>{folded['folded'][0]['name']}</h2>" in unfolded


@in_a_browser
def test_a_processor_of_a_blank_name_can_be_clicked_on(tmp_path):
    shown = browsed(page({"graph": chain(3, " ")}), "", tmp_path)

    assert '<button class="link">p1</button>' in shown
    assert 'aria-label="p1"' in shown
