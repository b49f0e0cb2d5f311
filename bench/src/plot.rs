//! Draws the figures of the group `growth`.

use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;

use crate::{figures::Figure, table::BenchReport};

const SIZE: (u32, u32) = (960, 400);
const COLORS: [RGBColor; 3] = [RED, BLUE, BLACK];
/// A line of a chart: its name and its points.
type PlotLine = (&'static str, Vec<(f64, f64)>);

/// Returns an SVG with two charts: times over the number of open connections, and CPU over the rate of new ones.
pub(crate) fn growth(report: &BenchReport) -> Result<String> {
    let held = |figure| -> Vec<(f64, f64)> {
        let medians = report.medians(figure).into_iter();
        medians.filter_map(|(case, value)| Some((case.parse().ok()?, value))).collect()
    };
    let reached = report.medians(Figure::RateReached);
    let at = |figure| -> Vec<(f64, f64)> {
        let medians = report.medians(figure);
        // The horizontal axis is the rate that was reached, which may lie below the one that was asked for.
        let x = |case: &str| reached.iter().find(|(of, _)| *of == case).map(|(_, rate)| *rate);
        medians.into_iter().filter_map(|(case, value)| Some((x(case)?, value))).collect()
    };
    let mut left = [
        ("ss -tanp, s", held(Figure::HeldSs)),
        ("ready, s", held(Figure::HeldReady)),
        ("list, s", held(Figure::HeldList)),
    ];
    let mut right =
        [("machine, % of all cores", at(Figure::RateMachine)), ("netconn, % of one core", at(Figure::RateCpu))];
    for (_, points) in left.iter_mut().chain(&mut right) {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let (one, other) = root.split_horizontally(SIZE.0 / 2);
    draw(&one, "connections held", &left)?;
    draw(&other, "connections per second", &right)?;
    root.present().map_err(drawing)?;
    drop((one, other, root));
    Ok(text)
}

/// Draws lines on logarithmic axes.
fn draw(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, x_name: &str, lines: &[PlotLine]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = || points().map(of).filter(|value| *value > 0.0);
        // Room at both ends; a logarithmic axis cannot begin at 0.
        (values().fold(f64::INFINITY, f64::min) / 1.5)..(values().fold(0.0, f64::max) * 1.5)
    };
    ensure!(points().next().is_some(), "there are no figures of the group growth");
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .x_label_formatter(&|x| x.to_string())
        .y_label_formatter(&|y| y.to_string())
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(drawing)?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()].stroke_width(2);
        let series = LineSeries::new(points.iter().copied(), color).point_size(3);
        chart.draw_series(series).map_err(drawing)?.label(*name).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 16, y)], COLORS[index % COLORS.len()].stroke_width(2))
        });
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
    labels.draw().map_err(drawing)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_lines_and_needs_figures() {
        let mut report = BenchReport::default();
        assert!(growth(&report).is_err());
        for (case, value) in [("1000", 0.01), ("100000", 1.0)] {
            report.add(Figure::HeldSs, case, value);
        }
        assert!(growth(&report).is_err(), "one chart is empty");
        report.add(Figure::RateReached, "100", 99.0);
        report.add(Figure::RateCpu, "100", 0.4);
        // The cases come in no order.
        for (case, value) in [("10000", 9000.0), ("1000", 1000.0)] {
            report.add(Figure::RateReached, case, value);
            report.add(Figure::RateCpu, case, value);
        }
        let text = growth(&report).unwrap();
        let lines = text.split("<polyline").skip(1).filter_map(|line| line.split_once("points=\"")?.1.split_once('"'));
        for (points, _) in lines {
            let xs = points.split_whitespace().map(|point| point.split_once(',').unwrap().0.parse::<f64>().unwrap());
            assert!(xs.is_sorted(), "{points}");
        }
        assert!(text.contains("ss -tanp") && text.contains("connections per second"), "{text}");
    }
}
