//! Functions for places on the Earth.

use crate::value::Value;

/// Mean radius of the Earth, kilometers (IUGG).
const RADIUS_KM: f64 = 6_371.008_8;

/// Length of a mile, kilometers.
const MILE_KM: f64 = 1.609_344;

/// Returns latitude and longitude of a place, in degrees.
fn point(value: &Value<'_>) -> Option<(f64, f64)> {
    let text = value.text()?;
    let (latitude, longitude) = text.split_once(',')?;
    let (latitude, longitude) = (latitude.trim().parse::<f64>().ok()?, longitude.trim().parse::<f64>().ok()?);
    (latitude.abs() <= 90.0 && longitude.abs() <= 180.0).then_some((latitude, longitude))
}

/// Whether the value is a place.
pub(super) fn geo_is_point<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(point(&arguments[0]).is_some())
}

/// `geo_distance(a, b[, unit])`: the length of the great circle between two places, by the haversine formula.
pub(super) fn geo_distance<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let unit = match arguments.get(2).map(Value::text) {
        None => 1.0,
        Some(Some(unit)) if ["mile", "miles"].contains(&unit.as_ref()) => MILE_KM,
        Some(Some(unit)) if ["kilometer", "kilometers", "km"].contains(&unit.as_ref()) => 1.0,
        Some(_) => return Value::Null,
    };
    let (Some(one), Some(other)) = (point(&arguments[0]), point(&arguments[1])) else { return Value::Null };
    let (north, south) = (one.0.to_radians(), other.0.to_radians());
    let half = |one: f64, other: f64| ((other - one).to_radians() / 2.0).sin().powi(2);
    let chord = half(one.0, other.0) + north.cos() * south.cos() * half(one.1, other.1);
    Value::Number(2.0 * RADIUS_KM * chord.sqrt().min(1.0).asin() / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_globe() {
        let distance = |one: &str, other: &str, unit: &str| {
            geo_distance(&[Value::owned(one), Value::owned(other), Value::owned(unit)]).number()
        };
        // A quarter of a meridian is 10,007.6 km on a sphere of that radius.
        let quarter = distance("0,0", "90,0", "kilometer").unwrap();
        assert!((quarter - 10_007.557).abs() < 0.01, "{quarter}");
        let miles = distance("0,0", "90,0", "mile").unwrap();
        assert!((miles - quarter / MILE_KM).abs() < 1e-9, "{miles}");
        assert_eq!(distance("0,0", "0,0", "km"), Some(0.0));
        assert_eq!(distance("0,0", "91,0", "km"), None);
        assert_eq!(distance("0,0", "9,0", "parsec"), None);
        assert_eq!(geo_is_point(&[Value::owned("52.5, 13.4")]), Value::Bool(true));
        assert_eq!(geo_is_point(&[Value::Null]), Value::Bool(false));
    }
}
