"""The charts of the benchmarks: well-formed, and a dot on the line where what is measured is what was expected."""

from xml.etree import ElementTree

from scripts.bench.picture import Panel, picture

SVG = "{http://www.w3.org/2000/svg}"


def test_dots_lie_on_the_line_where_both_agree() -> None:
    panel = Panel("a & b", "tokens < 1", [128, 1024, 8192], [10.0, 20.0, 300.0], [10.0, 40.0, 300.0])
    root = ElementTree.fromstring(picture([panel, panel]))
    charts = root.findall(f"{SVG}g")
    assert len(charts) == 2
    line = charts[0].find(f"{SVG}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in charts[0].iter(f"{SVG}circle")]
    assert [dot == point for dot, point in zip(dots, points, strict=True)] == [True, False, True]
    assert dots[1][1] > points[1][1]  # slower than expected is lower on the page
