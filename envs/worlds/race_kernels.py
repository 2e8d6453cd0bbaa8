"""Kernels of `race`: the motion of a car."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MASS, INERTIA = 0.041, 27.8e-6  # kg, kg m^2
FRONT, REAR = 0.029, 0.033  # from the centre of mass to the axles, m
BF, CF, DF = 2.579, 1.2, 0.192  # Pacejka's constants of the front tyres, DF in N
BR, CR, DR = 3.3852, 1.2691, 0.1737
CM1, CM2 = 0.287, 0.0545  # motor: N, N s / m
CR0, CR2 = 0.0518, 0.00035  # resistance of rolling, N, and of the air, N s^2 / m^2
CRAWL = 0.1  # m/s: below it braking forces fade, so that a car stops and does not roll back
SLIP = 0.3  # m/s: slip angles are computed with at least this rolling speed

_S, _D, _MU, _VX, _VY, _R = range(6)


@njit(cache=True, nogil=True)
def _onward(car, bend):
    """Speed of s where the centre line has curvature `bend`."""
    speed = car[_VX] * math.cos(car[_MU]) - car[_VY] * math.sin(car[_MU])
    return speed / (1.0 - bend * car[_D])


@njit(cache=True, nogil=True)
def _bend(ends, curvature, s, far):
    """Mean curvature from `s` to ``s + far``, which is shorter than any part of the track."""
    low, far = min(s, s + far) % ends[-1], abs(far)
    part = np.searchsorted(ends[:-1], low, "right")
    beyond = low + far - ends[part]
    if beyond <= 0:
        return curvature[part]
    following = curvature[(part + 1) % len(ends)]
    return curvature[part] + (following - curvature[part]) * beyond / far


@njit(cache=True, nogil=True)
def _motion(car, throttle, steer, bend, out):
    """Write the time derivative of the state `car` [6] to `out` [6], at curvature `bend`."""
    vx, vy, r = car[_VX], car[_VY], car[_R]
    sine, cosine = math.sin(steer), math.cos(steer)
    side = vy + FRONT * r  # the front axle's speed to the left, and in the frame of its wheels
    slides, rolls = cosine * side - sine * vx, abs(cosine * vx + sine * side)
    slip_front = -math.atan(slides / max(rolls, SLIP))
    slip_rear = -math.atan((vy - REAR * r) / max(abs(vx), SLIP))
    front = DF * math.sin(CF * math.atan(BF * slip_front))
    rear = DR * math.sin(CR * math.atan(BR * slip_rear))
    motor = (CM1 - CM2 * vx) * throttle
    push, brake = max(motor, 0.0), max(-motor, 0.0) + CR0
    drive = push - brake * min(max(vx / CRAWL, -1.0), 1.0) - CR2 * vx * abs(vx)
    out[_S] = _onward(car, bend)
    out[_D] = vx * math.sin(car[_MU]) + vy * math.cos(car[_MU])
    out[_MU] = r - bend * out[_S]
    out[_VX] = (drive - front * sine) / MASS + vy * r
    out[_VY] = (rear + front * cosine) / MASS - vx * r
    out[_R] = (FRONT * front * cosine - REAR * rear) / INERTIA


@njit(cache=True, nogil=True)
def drive(cars, inputs, ends, curvature, half_width, finish, dt, substeps):
    """Integrate the motion of each car for `dt` seconds (Runge-Kutta 4), or until its race is over.

    The dynamic bicycle model of Liniger et al. (2015) with the constants of the 1:43 car, in
    coordinates of the centre line. That model divides by the speed; below `SLIP` and `CRAWL` it is
    changed as described there. Slip angles are those of the wheels' velocity, an equal form in
    which a car at rest stays at rest. In each substep the curvature is the mean over the stretch
    that the car will cover.

    Args:
        cars: [N, 6] float64, changed: s, d, mu (heading less the centre line's), vx, vy, r.
        inputs: [N, 2] float64, throttle from -1 to 1 and the steering angle in rad.
        ends: [S] where each part of the track ends, the last one at the length of a lap.
        curvature: [S] of each part.
        half_width: a car farther from the centre line than this stops.
        finish: a car at or beyond this s stops.
        dt: seconds.
        substeps: of the integration.
    """
    h = dt / substeps
    at, slope, total = np.empty(6), np.empty(6), np.empty(6)
    for n in range(len(cars)):
        car = cars[n]
        for _ in range(substeps):
            if abs(car[_D]) > half_width or car[_S] >= finish:
                break
            far = h * _onward(car, _bend(ends, curvature, car[_S], 0.0))
            bend = _bend(ends, curvature, car[_S], far)
            at[:] = car
            total[:] = 0.0
            for stage in range(4):
                _motion(at, inputs[n, 0], inputs[n, 1], bend, slope)
                total += slope * (1.0 if stage in (0, 3) else 2.0)
                at[:] = car + slope * (h if stage == 2 else h / 2)
            car += total * (h / 6)
