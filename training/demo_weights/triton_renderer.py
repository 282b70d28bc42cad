# ruff: noqa: ANN001, ANN202, PLR0913, PLR0915, PLR0917, N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# Triton reads these functions as its own language: no annotations but constexpr, vectors as three arguments each, and
# compile-time parameters in capitals.
"""The renderer as one Triton kernel: a program renders a tile of 16 x 16 pixels of one scene.

`reference_renderer` holds the same functions with their explanations. What is added here: primitives whose bounding
sphere cannot meet the rays of a tile are skipped, by the tile's cone for rays from the camera and by the capsule
around the tile's points and the light for shadow rays.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from training.demo_weights import columns as col
from training.demo_weights.triton_shading import (
    BOX,
    CONE,
    ELLIPSOID,
    FARTHEST,
    HORIZON,
    KIND,
    LIGHT_COLOUR,
    SEED,
    TANGENT,
    albedo,
    ambient,
    bumped,
    camera_ray,
    jitter,
    noise,
    nonzero,
    ripple,
    sky,
    surface,
    to_local,
    towards_light,
    unit,
)

_TILE = tl.constexpr(col.TILE)
_COLUMNS = tl.constexpr(col.PRIMITIVE_COLUMNS)
_SCENE_COLUMNS = tl.constexpr(col.SCENE_COLUMNS)
_CENTRE = tl.constexpr(col.CENTRE)
_CUT = tl.constexpr(col.CUT)
_CUT_FREQUENCY = tl.constexpr(col.CUT_FREQUENCY)
_RADIUS = tl.constexpr(col.RADIUS)
_GLOSS = tl.constexpr(col.GLOSS)
_EMISSION = tl.constexpr(col.EMISSION)
_COUNT = tl.constexpr(col.COUNT)
_EYE = tl.constexpr(col.EYE)
_HAZE = tl.constexpr(col.HAZE)
_SOFTNESS = tl.constexpr(col.SOFTNESS)
_OCCLUSION_RANGE = tl.constexpr(col.OCCLUSION_RANGE)
_MIRROR = tl.constexpr(col.MIRROR)
_NEAREST = tl.constexpr(col.NEAREST)
_MISS = tl.constexpr(2.0 * col.FARTHEST)


@triton.jit
def _slab(o, d):
    inverse = 1.0 / nonzero(d)
    t1, t2 = (-1 - o) * inverse, (1 - o) * inverse
    return tl.minimum(t1, t2), tl.maximum(t1, t2)


@triton.jit
def _interval(kind, ox, oy, oz, dx, dy, dz):
    ny, fy = _slab(oy, dy)
    if kind == BOX:
        nx, fx = _slab(ox, dx)
        nz, fz = _slab(oz, dz)
        near, far = tl.maximum(tl.maximum(nx, ny), nz), tl.minimum(tl.minimum(fx, fy), fz)
    else:
        round_y = tl.where(kind == ELLIPSOID, 1.0, 0.0)
        slope = tl.where(kind == CONE, 0.5, 0.0)
        radius = tl.where(kind == CONE, 0.5 * (1.0 - oy), 1.0)
        a = dx * dx + dz * dz + (round_y - slope * slope) * dy * dy
        b = ox * dx + oz * dz + round_y * oy * dy + slope * radius * dy
        c = ox * ox + oz * oz + round_y * oy * oy - radius * radius
        a = nonzero(a)
        disc = b * b - a * c
        root = tl.sqrt(tl.maximum(disc, 0.0))
        r1, r2 = (-b - root) / a, (-b + root) / a
        low, high = tl.minimum(r1, r2), tl.maximum(r1, r2)
        steep = a < 0
        near = tl.where(steep, tl.where(dy < 0, high, -_MISS), low)
        far = tl.where(steep, tl.where(dy < 0, _MISS, low), high)
        far = tl.where((disc <= 0) & (a > 0), near - 1, far)
        if kind != ELLIPSOID:
            near, far = tl.maximum(near, ny), tl.minimum(far, fy)
    return near, far


@triton.jit
def _solid(cut, frequency, seed, ox, oy, oz, dx, dy, dz, t):
    t = tl.minimum(tl.maximum(t, -_MISS), _MISS)
    return noise((ox + t * dx) * frequency, (oy + t * dy) * frequency, (oz + t * dz) * frequency, seed) >= cut


@triton.jit
def _first_hit(row, ox, oy, oz, dx, dy, dz):
    c = row + _CENTRE
    lx, ly, lz = to_local(row, ox - tl.load(c), oy - tl.load(c + 1), oz - tl.load(c + 2))
    ax, ay, az = to_local(row, dx, dy, dz)
    near, far = _interval(tl.load(row + KIND), lx, ly, lz, ax, ay, az)
    hit = near < far
    entry = hit & (near > _NEAREST)
    t = tl.where(entry, near, _MISS)
    cut = tl.load(row + _CUT)
    if cut > 0:
        frequency, seed = tl.load(row + _CUT_FREQUENCY), tl.load(row + SEED).to(tl.int32)
        leave = hit & (far > _NEAREST) & _solid(cut, frequency, seed, ox, oy, oz, dx, dy, dz, far)
        entry = entry & _solid(cut, frequency, seed, ox, oy, oz, dx, dy, dz, near)
        t = tl.where(entry, near, tl.where(leave, far, _MISS))
    return t


@triton.jit
def _trace(table, count, ox, oy, oz, dx, dy, dz, ex, ey, ez, mx, my, mz, cosine, sine, CULL: tl.constexpr):
    distance = tl.full(dx.shape, _MISS, tl.float32)
    index = tl.zeros(dx.shape, tl.int32)
    for k in range(count):
        row = table + k * _COLUMNS
        seen = tl.load(row + _RADIUS) > 0
        if CULL:
            radius = tl.load(row + _RADIUS)
            vx, vy, vz = tl.load(row) - ex, tl.load(row + 1) - ey, tl.load(row + 2) - ez
            depth = vx * mx + vy * my + vz * mz
            aside = tl.sqrt(tl.maximum(vx * vx + vy * vy + vz * vz - depth * depth, 0.0))
            seen = (aside * cosine - depth * sine < radius) & (depth > -radius)
        if seen:
            t = _first_hit(row, ox, oy, oz, dx, dy, dz)
            nearer = t < distance
            distance = tl.where(nearer, t, distance)
            index = tl.where(nearer, k, index)
    return distance, index


@triton.jit
def _transmitted(table, count, ox, oy, oz, dx, dy, dz, reach, px, py, pz, around, lx, ly, lz, length, spread):
    free = tl.full(dx.shape, 1.0, tl.float32)
    for k in range(count):
        row = table + k * _COLUMNS
        vx, vy, vz = tl.load(row) - px, tl.load(row + 1) - py, tl.load(row + 2) - pz
        depth = tl.minimum(tl.maximum(vx * lx + vy * ly + vz * lz, 0.0), length)
        vx, vy, vz = vx - depth * lx, vy - depth * ly, vz - depth * lz
        limit = tl.load(row + _RADIUS) + around + spread * depth
        if vx * vx + vy * vy + vz * vz < limit * limit:
            t = _first_hit(row, ox, oy, oz, dx, dy, dz)
            free = tl.where(t < reach, 0.0, free)
    return free


@triton.jit
def _reflected(table, count, scene, ox, oy, oz, dx, dy, dz):
    zero = 0.0
    distance, index = _trace(
        table, count, ox, oy, oz, dx, dy, dz, zero, zero, zero, zero, zero, zero, zero, zero, CULL=False
    )
    row = table + index * _COLUMNS
    px, py, pz = ox + distance * dx, oy + distance * dy, oz + distance * dz
    nx, ny, nz, x, y, z, axis = surface(row, px, py, pz)
    sign = tl.where(nx * dx + ny * dy + nz * dz > 0, -1.0, 1.0)
    nx, ny, nz = nx * sign, ny * sign, nz * sign
    red, green, blue = albedo(row, x, y, z, axis, distance * 0.01)
    lx, ly, lz, _, fall_off = towards_light(scene, px, py, pz)
    lit = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0) * fall_off * 0.7
    upward = 0.5 + 0.5 * ny
    colour = scene + LIGHT_COLOUR
    sr, sg, sb = sky(scene, dx, dy, dz)
    missed = distance >= FARTHEST
    return (
        tl.where(missed, sr, red * (ambient(scene, 0, upward) + tl.load(colour) * lit)),
        tl.where(missed, sg, green * (ambient(scene, 1, upward) + tl.load(colour + 1) * lit)),
        tl.where(missed, sb, blue * (ambient(scene, 2, upward) + tl.load(colour + 2) * lit)),
    )


@triton.jit
def _tile_centre(px, py, pz, hit):
    weight = tl.where(hit, 1.0, 0.0)
    total = tl.maximum(tl.sum(weight, 0), 1.0)
    mx, my, mz = tl.sum(px * weight, 0) / total, tl.sum(py * weight, 0) / total, tl.sum(pz * weight, 0) / total
    apart = (px - mx) * (px - mx) + (py - my) * (py - my) + (pz - mz) * (pz - mz)
    return mx, my, mz, tl.sqrt(tl.max(apart * weight, 0))


@triton.jit
def _lit(table, count, scene, pixel, sx, sy, sz, px, py, pz, nx, ny, nz, fx, fy, fz, hit):
    """Light of the lamp or sun and share of the free sky at the points of a tile; and the direction to the light."""
    mx, my, mz, around = _tile_centre(px, py, pz, hit)
    lx, ly, lz, reach, fall_off = towards_light(scene, px, py, pz)
    tx, ty, tz, length, _ = towards_light(scene, mx, my, mz)
    softness = tl.load(scene + _SOFTNESS)
    wx, wy, wz = jitter(pixel, scene, 11)
    rx, ry, rz = unit(lx + softness * wx, ly + softness * wy, lz + softness * wz)
    lit = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0) * fall_off
    lit *= _transmitted(
        table, count, sx, sy, sz, rx, ry, rz, reach, mx, my, mz, around, tx, ty, tz, length, softness * 1.8
    )
    wx, wy, wz = jitter(pixel, scene, 23)
    wx, wy, wz = unit(wx, wy, wz)
    rx, ry, rz = unit(fx + 0.95 * wx, fy + 0.95 * wy, fz + 0.95 * wz)
    span = tl.load(scene + _OCCLUSION_RANGE)
    near = around + span
    free = _transmitted(
        table, count, sx, sy, sz, rx, ry, rz, span + px * 0, mx, my, mz, near, tx, ty, tz, length * 0, softness
    )
    return lit, 0.25 + 0.75 * free, lx, ly, lz


# Sizes are no part of the compiled kernel: it takes most of a minute to compile.
@triton.jit(do_not_specialize=["capacity", "height", "width", "tiles_x"])
def _render_kernel(primitives, scenes, rgb, inverse, capacity, height, width, tiles_x):
    batch, tile = tl.program_id(1), tl.program_id(0)
    lane = tl.arange(0, _TILE * _TILE)
    px = (tile % tiles_x) * _TILE + lane % _TILE
    py = (tile // tiles_x) * _TILE + lane // _TILE
    inside = (px < width) & (py < height)
    table, scene = primitives + batch * capacity * _COLUMNS, scenes + batch * _SCENE_COLUMNS
    count = tl.load(scene + _COUNT).to(tl.int32)
    pixel = py * width + px
    dx, dy, dz, cosine = camera_ray(scene, px.to(tl.float32), py.to(tl.float32), height, width)
    ex, ey, ez = tl.load(scene + _EYE), tl.load(scene + _EYE + 1), tl.load(scene + _EYE + 2)
    mx, my, mz = unit(tl.sum(dx, 0), tl.sum(dy, 0), tl.sum(dz, 0))
    cone = tl.minimum(tl.min(dx * mx + dy * my + dz * mz, 0), 1.0)
    sine = tl.sqrt(1 - cone * cone) + 1e-4
    zero = dx * 0
    ox, oy, oz = ex + zero, ey + zero, ez + zero
    distance, index = _trace(table, count, ox, oy, oz, dx, dy, dz, ex, ey, ez, mx, my, mz, cone, sine, CULL=True)
    hit = distance < FARTHEST
    red, green, blue = sky(scene, dx, dy, dz)
    if tl.sum(hit.to(tl.int32), 0) > 0:
        row = table + index * _COLUMNS
        x, y, z = ox + distance * dx, oy + distance * dy, oz + distance * dz
        fx, fy, fz, qx, qy, qz, axis = surface(row, x, y, z)
        short = tl.minimum(height, width).to(tl.float32)
        footprint = distance * tl.load(scene + TANGENT) * (2.0 / short)
        nx, ny, nz = bumped(row, qx, qy, qz, fx, fy, fz, footprint)
        sign = tl.where(nx * dx + ny * dy + nz * dz > 0, -1.0, 1.0)
        nx, ny, nz = nx * sign, ny * sign, nz * sign
        sign = tl.where(fx * dx + fy * dy + fz * dz > 0, -1.0, 1.0)
        fx, fy, fz = fx * sign, fy * sign, fz * sign
        ar, ag, ab = albedo(row, qx, qy, qz, axis, footprint)
        off = 0.002 * distance + 0.001
        sx, sy, sz = x + off * fx, y + off * fy, z + off * fz
        lit, free, lx, ly, lz = _lit(table, count, scene, pixel, sx, sy, sz, x, y, z, nx, ny, nz, fx, fy, fz, hit)
        hx, hy, hz = unit(lx - dx, ly - dy, lz - dz)
        shine = tl.exp(40 * tl.log(tl.maximum(nx * hx + ny * hy + nz * hz, 1e-4))) * tl.load(row + _GLOSS) * lit
        upward = 0.5 + 0.5 * ny
        emission = tl.load(row + _EMISSION)
        c0, c1, c2 = (
            tl.load(scene + LIGHT_COLOUR),
            tl.load(scene + LIGHT_COLOUR + 1),
            tl.load(scene + LIGHT_COLOUR + 2),
        )
        ar = ar * (ambient(scene, 0, upward) * free + c0 * lit + emission) + shine * c0
        ag = ag * (ambient(scene, 1, upward) * free + c1 * lit + emission) + shine * c1
        ab = ab * (ambient(scene, 2, upward) * free + c2 * lit + emission) + shine * c2
        mirror = tl.load(scene + _MIRROR)
        wet = hit & (index == 0)
        if (mirror > 0) & (tl.sum(wet.to(tl.int32), 0) > 0):
            rx, rz = ripple(scene, x, z)
            rx, ry, rz = unit(fx + rx, fy, fz + rz)
            bounce = 2 * (dx * rx + dy * ry + dz * rz)
            rx, ry, rz = unit(dx - bounce * rx, dy - bounce * ry, dz - bounce * rz)
            ir, ig, ib = _reflected(table, count, scene, sx, sy, sz, rx, ry, rz)
            grazing = 1 - tl.abs(dx * fx + dy * fy + dz * fz)
            share = tl.where(wet, mirror * (0.15 + 0.85 * grazing * grazing), 0.0)
            ar, ag, ab = ar + (ir - ar) * share, ag + (ig - ag) * share, ab + (ib - ab) * share
        clear = tl.exp(-tl.minimum(distance, 2000.0) * tl.load(scene + _HAZE))
        h0, h1, h2 = tl.load(scene + HORIZON), tl.load(scene + HORIZON + 1), tl.load(scene + HORIZON + 2)
        red = tl.where(hit, h0 + (ar - h0) * clear, red)
        green = tl.where(hit, h1 + (ag - h1) * clear, green)
        blue = tl.where(hit, h2 + (ab - h2) * clear, blue)
    plane = height * width
    out = rgb + batch * 3 * plane + pixel
    tl.store(out, red, mask=inside)
    tl.store(out + plane, green, mask=inside)
    tl.store(out + 2 * plane, blue, mask=inside)
    tl.store(inverse + batch * plane + pixel, tl.where(hit, 1.0 / (distance * cosine), 0.0), mask=inside)


def render(primitives: Tensor, scenes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Render a batch of scenes; as `reference_renderer.render`.

    Args:
        primitives: (B, N, PRIMITIVE_COLUMNS) float32, contiguous, on a CUDA device.
        scenes: (B, SCENE_COLUMNS) float32, contiguous, on the same device.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Linear radiance, (B, 3, H, W), and inverse depth in 1/m, (B, H, W), 0 for the sky; both float32.
    """
    batch, capacity, _ = primitives.shape
    rgb = torch.empty(batch, 3, height, width, device=primitives.device)
    inverse = torch.empty(batch, height, width, device=primitives.device)
    tiles_x, tiles_y = -(-width // col.TILE), -(-height // col.TILE)
    _render_kernel[(tiles_x * tiles_y, batch)](
        primitives, scenes, rgb, inverse, capacity, height, width, tiles_x, num_warps=8
    )
    return rgb, inverse
