# ruff: noqa: ANN001, ANN202, PLR0913, PLR0915, N803
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

_TILE = tl.constexpr(col.TILE)
_COLUMNS = tl.constexpr(col.PRIMITIVE_COLUMNS)
_SCENE_COLUMNS = tl.constexpr(col.SCENE_COLUMNS)
_CENTRE = tl.constexpr(col.CENTRE)
_TO_LOCAL = tl.constexpr(col.TO_LOCAL)
_KIND = tl.constexpr(col.KIND)
_CUT = tl.constexpr(col.CUT)
_CUT_FREQUENCY = tl.constexpr(col.CUT_FREQUENCY)
_RADIUS = tl.constexpr(col.RADIUS)
_COLOUR_A = tl.constexpr(col.COLOUR_A)
_COLOUR_B = tl.constexpr(col.COLOUR_B)
_TEXTURE = tl.constexpr(col.TEXTURE)
_TEXTURE_FREQUENCY = tl.constexpr(col.TEXTURE_FREQUENCY)
_BUMP = tl.constexpr(col.BUMP)
_GLOSS = tl.constexpr(col.GLOSS)
_EMISSION = tl.constexpr(col.EMISSION)
_SEED = tl.constexpr(col.SEED)
_HALF_SIZE = tl.constexpr(col.HALF_SIZE)
_CONTRAST = tl.constexpr(col.CONTRAST)
_BOX = tl.constexpr(col.BOX)
_ELLIPSOID = tl.constexpr(col.ELLIPSOID)
_CYLINDER = tl.constexpr(col.CYLINDER)
_CONE = tl.constexpr(col.CONE)
_TILES = tl.constexpr(col.TEXTURE_TILES)
_BRICKS = tl.constexpr(col.TEXTURE_BRICKS)
_PLANKS = tl.constexpr(col.TEXTURE_PLANKS)
_WINDOWS = tl.constexpr(col.TEXTURE_WINDOWS)
_PATCHES = tl.constexpr(col.TEXTURE_PATCHES)
_COUNT = tl.constexpr(col.COUNT)
_TANGENT = tl.constexpr(col.TANGENT)
_PRINCIPAL = tl.constexpr(col.PRINCIPAL)
_ROTATION = tl.constexpr(col.ROTATION)
_EYE = tl.constexpr(col.EYE)
_LIGHT = tl.constexpr(col.LIGHT)
_LAMP = tl.constexpr(col.LAMP)
_LIGHT_COLOUR = tl.constexpr(col.LIGHT_COLOUR)
_AMBIENT_UP = tl.constexpr(col.AMBIENT_UP)
_AMBIENT_DOWN = tl.constexpr(col.AMBIENT_DOWN)
_ZENITH = tl.constexpr(col.ZENITH)
_HORIZON = tl.constexpr(col.HORIZON)
_CLOUDS = tl.constexpr(col.CLOUDS)
_HAZE = tl.constexpr(col.HAZE)
_SOFTNESS = tl.constexpr(col.SOFTNESS)
_OCCLUSION_RANGE = tl.constexpr(col.OCCLUSION_RANGE)
_MIRROR = tl.constexpr(col.MIRROR)
_RIPPLE = tl.constexpr(col.RIPPLE)
_SCENE_SEED = tl.constexpr(col.SCENE_SEED)
_LAMP_REACH = tl.constexpr(col.LAMP_REACH)
_NEAREST = tl.constexpr(col.NEAREST)
_FARTHEST = tl.constexpr(col.FARTHEST)
_MISS = tl.constexpr(2.0 * col.FARTHEST)
_TINY = tl.constexpr(1.0e-7)


@triton.jit
def _hash(x, y, z, seed):
    h = (
        (x.to(tl.uint32) * 73856093)
        ^ (y.to(tl.uint32) * 19349663)
        ^ (z.to(tl.uint32) * 83492791)
        ^ (seed.to(tl.uint32) * 26544357)
    )
    h = (h ^ (h >> 15)) * 739982445
    h = (h ^ (h >> 12)) * 695872825
    h = h ^ (h >> 15)
    return (h & 0xFFFFFF).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _noise(px, py, pz, seed):
    cx, cy, cz = tl.floor(px), tl.floor(py), tl.floor(pz)
    fx, fy, fz = px - cx, py - cy, pz - cz
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    x, y, z = cx.to(tl.int32), cy.to(tl.int32), cz.to(tl.int32)
    a = _hash(x, y, z, seed)
    a += fx * (_hash(x + 1, y, z, seed) - a)
    b = _hash(x, y + 1, z, seed)
    b += fx * (_hash(x + 1, y + 1, z, seed) - b)
    near = a + fy * (b - a)
    a = _hash(x, y, z + 1, seed)
    a += fx * (_hash(x + 1, y, z + 1, seed) - a)
    b = _hash(x, y + 1, z + 1, seed)
    b += fx * (_hash(x + 1, y + 1, z + 1, seed) - b)
    far = a + fy * (b - a)
    return near + fz * (far - near)


@triton.jit
def _unit(x, y, z):
    scale = tl.rsqrt(tl.maximum(x * x + y * y + z * z, 1e-20))
    return x * scale, y * scale, z * scale


@triton.jit
def _nonzero(v):
    return tl.where(tl.abs(v) < _TINY, _TINY, v)


@triton.jit
def _to_local(row, x, y, z):
    m = row + _TO_LOCAL
    return (
        tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z,
        tl.load(m + 3) * x + tl.load(m + 4) * y + tl.load(m + 5) * z,
        tl.load(m + 6) * x + tl.load(m + 7) * y + tl.load(m + 8) * z,
    )


@triton.jit
def _slab(o, d):
    inverse = 1.0 / _nonzero(d)
    t1, t2 = (-1 - o) * inverse, (1 - o) * inverse
    return tl.minimum(t1, t2), tl.maximum(t1, t2)


@triton.jit
def _interval(kind, ox, oy, oz, dx, dy, dz):
    ny, fy = _slab(oy, dy)
    if kind == _BOX:
        nx, fx = _slab(ox, dx)
        nz, fz = _slab(oz, dz)
        near, far = tl.maximum(tl.maximum(nx, ny), nz), tl.minimum(tl.minimum(fx, fy), fz)
    else:
        round_y = tl.where(kind == _ELLIPSOID, 1.0, 0.0)
        slope = tl.where(kind == _CONE, 0.5, 0.0)
        radius = tl.where(kind == _CONE, 0.5 * (1.0 - oy), 1.0)
        a = dx * dx + dz * dz + (round_y - slope * slope) * dy * dy
        b = ox * dx + oz * dz + round_y * oy * dy + slope * radius * dy
        c = ox * ox + oz * oz + round_y * oy * oy - radius * radius
        a = _nonzero(a)
        disc = b * b - a * c
        root = tl.sqrt(tl.maximum(disc, 0.0))
        r1, r2 = (-b - root) / a, (-b + root) / a
        low, high = tl.minimum(r1, r2), tl.maximum(r1, r2)
        steep = a < 0
        near = tl.where(steep, tl.where(dy < 0, high, -_MISS), low)
        far = tl.where(steep, tl.where(dy < 0, _MISS, low), high)
        far = tl.where((disc <= 0) & (a > 0), near - 1, far)
        if kind != _ELLIPSOID:
            near, far = tl.maximum(near, ny), tl.minimum(far, fy)
    return near, far


@triton.jit
def _solid(cut, frequency, seed, ox, oy, oz, dx, dy, dz, t):
    t = tl.minimum(tl.maximum(t, -_MISS), _MISS)
    return _noise((ox + t * dx) * frequency, (oy + t * dy) * frequency, (oz + t * dz) * frequency, seed) >= cut


@triton.jit
def _first_hit(row, ox, oy, oz, dx, dy, dz):
    c = row + _CENTRE
    lx, ly, lz = _to_local(row, ox - tl.load(c), oy - tl.load(c + 1), oz - tl.load(c + 2))
    ax, ay, az = _to_local(row, dx, dy, dz)
    near, far = _interval(tl.load(row + _KIND), lx, ly, lz, ax, ay, az)
    hit = near < far
    entry = hit & (near > _NEAREST)
    t = tl.where(entry, near, _MISS)
    cut = tl.load(row + _CUT)
    if cut > 0:
        frequency, seed = tl.load(row + _CUT_FREQUENCY), tl.load(row + _SEED).to(tl.int32)
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
def _surface(row, px, py, pz):
    x, y, z = _to_local(row, px - tl.load(row), py - tl.load(row + 1), pz - tl.load(row + 2))
    kind = tl.load(row + _KIND)
    side = tl.sqrt(x * x + z * z)
    ax, ay, az = tl.abs(x), tl.abs(y), tl.abs(z)
    box_x = (ax >= ay) & (ax >= az)
    box_y = (ay > ax) & (ay >= az)
    cap = ((kind == _CYLINDER) & (ay > side)) | ((kind == _CONE) & (y < -0.999))
    is_box = kind == _BOX
    sx, sy, sz = tl.where(x < 0, -1.0, 1.0), tl.where(y < 0, -1.0, 1.0), tl.where(z < 0, -1.0, 1.0)
    nx = tl.where(is_box, tl.where(box_x, sx, 0.0), tl.where(cap, 0.0, x))
    nz = tl.where(is_box, tl.where(box_x | box_y, 0.0, sz), tl.where(cap, 0.0, z))
    slope_y = tl.where(kind == _ELLIPSOID, y, tl.where(kind == _CONE, 0.25 * (1 - y), 0.0))
    ny = tl.where(is_box, tl.where(box_y, sy, 0.0), tl.where(cap, sy, slope_y))
    axis = tl.where(tl.abs(nx) > tl.maximum(tl.abs(ny), tl.abs(nz)), 0, tl.where(tl.abs(ny) > tl.abs(nz), 1, 2))
    m = row + _TO_LOCAL
    wx = tl.load(m) * nx + tl.load(m + 3) * ny + tl.load(m + 6) * nz
    wy = tl.load(m + 1) * nx + tl.load(m + 4) * ny + tl.load(m + 7) * nz
    wz = tl.load(m + 2) * nx + tl.load(m + 5) * ny + tl.load(m + 8) * nz
    wx, wy, wz = _unit(wx, wy, wz)
    h = row + _HALF_SIZE
    return wx, wy, wz, x * tl.load(h), y * tl.load(h + 1), z * tl.load(h + 2), axis


@triton.jit
def _texture(row, x, y, z, axis, footprint):
    kind, frequency = tl.load(row + _TEXTURE), tl.load(row + _TEXTURE_FREQUENCY)
    seed = tl.load(row + _SEED).to(tl.int32)
    x, y, z = x * frequency, y * frequency, z * frequency
    u, v = tl.where(axis == 0, z, x), tl.where(axis == 1, z, y)
    brick_row = tl.floor(v * 2)
    is_brick, is_plank = kind == _BRICKS, kind == _PLANKS
    u = tl.where(is_brick, u + 0.5 * (brick_row - 2 * tl.floor(brick_row * 0.5)), u)
    v = tl.where(is_brick, v * 2, tl.where(is_plank, v * 0.11, v))
    cell_u, cell_v = tl.floor(u), tl.floor(v)
    fu, fv = u - cell_u, v - cell_v
    iu = cell_u.to(tl.int32)
    tone = _hash(iu, cell_v.to(tl.int32), iu * 0, seed)
    edge = tl.minimum(tl.minimum(fu, 1 - fu), tl.where(is_plank, fu, tl.minimum(fv, 1 - fv)))
    joint = edge < tl.where(is_plank, 0.02, 0.045)
    rough = _noise(x * 2.17, y * 2.17, z * 2.17, seed + 1)
    rougher = _noise(x * 4.9, y * 4.9, z * 4.9, seed + 2)
    fbm = 0.5 * _noise(x, y, z, seed) + 0.3 * rough + 0.2 * rougher
    fbm = tl.minimum(tl.maximum(1.6 * fbm - 0.3, 0.0), 1.0)
    checker = (cell_u + cell_v) - 2 * tl.floor((cell_u + cell_v) * 0.5)
    tiles = tl.where(joint, 1.0, tl.where((seed & 3) == 0, checker * 0.8, tone * 0.45))
    planks = tl.where(joint, 1.0, 0.75 * tone + 0.25 * rougher)
    pane = (fu > 0.22) & (fu < 0.78) & (fv > 0.2) & (fv < 0.82)
    windows = tl.where(pane, tl.where(tone > 0.2, 1.0, 0.8), 0.12 * rough)
    patches = (_noise(x * 0.7, y * 0.7, z * 0.7, seed + 3) - 0.42) * 7
    patches = tl.minimum(tl.maximum(patches, 0.0), 1.0) * 0.8 + 0.2 * rough
    weight = tl.where(kind == _TILES, tiles, fbm)
    weight = tl.where(is_brick, tl.where(joint, 1.0, 0.6 * tone + 0.1 * rough), weight)
    weight = tl.where(is_plank, planks, weight)
    weight = tl.where(kind == _WINDOWS, windows, weight)
    weight = tl.where(kind == _PATCHES, patches, weight)
    blur = footprint * frequency * 1.5
    return 0.4 + (weight - 0.4) / (1 + blur * blur)


@triton.jit
def _albedo(row, x, y, z, axis, footprint):
    weight = _texture(row, x, y, z, axis, footprint) * tl.load(row + _CONTRAST)
    f = tl.load(row + _TEXTURE_FREQUENCY) * 0.23
    wear = 0.7 + 0.6 * _noise(x * f, y * f, z * f, tl.load(row + _SEED).to(tl.int32) + 5)
    a, b = row + _COLOUR_A, row + _COLOUR_B
    r0, g0, b0 = tl.load(a), tl.load(a + 1), tl.load(a + 2)
    red = (r0 + (tl.load(b) - r0) * weight) * wear
    green = (g0 + (tl.load(b + 1) - g0) * weight) * wear
    blue = (b0 + (tl.load(b + 2) - b0) * weight) * wear
    return tl.minimum(red, 1.0), tl.minimum(green, 1.0), tl.minimum(blue, 1.0)


@triton.jit
def _bumped(row, x, y, z, nx, ny, nz, footprint):
    f = tl.load(row + _TEXTURE_FREQUENCY)
    x, y, z = x * f * 2.0, y * f * 2.0, z * f * 2.0
    seed = tl.load(row + _SEED).to(tl.int32) + 7
    here = _noise(x, y, z, seed)
    blur = footprint * f * 3.0
    strength = tl.load(row + _BUMP) * 3.0 / (1 + blur * blur)
    gx = _noise(x + 0.2, y, z, seed) - here
    gy = _noise(x, y + 0.2, z, seed) - here
    gz = _noise(x, y, z + 0.2, seed) - here
    tilt = gx * nx + gy * ny + gz * nz
    return _unit(nx - strength * (gx - tilt * nx), ny - strength * (gy - tilt * ny), nz - strength * (gz - tilt * nz))


@triton.jit
def _sky_channel(scene, channel, gradient, cloud, bright, glow):
    top, low = tl.load(scene + _ZENITH + channel), tl.load(scene + _HORIZON + channel)
    clear = low + (top - low) * gradient
    white = (0.3 * low + 0.7 * tl.maximum(low, 0.5)) * bright * 1.35
    return clear + (white - clear) * cloud + glow * tl.load(scene + _LIGHT_COLOUR + channel)


@triton.jit
def _sky(scene, dx, dy, dz):
    height = tl.minimum(tl.maximum(dy, 0.0), 1.0)
    gradient = 1 - tl.exp(-3.0 * height)
    layer = 1.0 / (height + 0.12)
    x, y, z = dx * layer * 1.1, layer * 0.0, dz * layer * 1.1
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32)
    density = 0.55 * _noise(x, y, z, seed) + 0.3 * _noise(x * 2.3, y, z * 2.3, seed + 1)
    density += 0.15 * _noise(x * 5.1, y, z * 5.1, seed + 2)
    cloud = tl.minimum(tl.maximum((density - 1 + tl.load(scene + _CLOUDS)) * 4, 0.0), 1.0)
    cloud *= tl.minimum(height * 6, 1.0)
    bright = 0.55 + 0.9 * (density - 0.3)
    light = scene + _LIGHT
    sun = dx * tl.load(light) + dy * tl.load(light + 1) + dz * tl.load(light + 2)
    sun = tl.minimum(tl.maximum(sun, 0.0), 1.0) * (1 - tl.load(scene + _LAMP))
    glow = tl.exp(32 * tl.log(tl.maximum(sun, 1e-4))) * 0.35 * (1 - cloud)
    red = _sky_channel(scene, 0, gradient, cloud, bright, glow)
    green = _sky_channel(scene, 1, gradient, cloud, bright, glow)
    return red, green, _sky_channel(scene, 2, gradient, cloud, bright, glow)


@triton.jit
def _jitter(pixel, scene, salt):
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32) + salt
    zero = pixel * 0
    return (
        2 * _hash(pixel, zero, zero, seed) - 1,
        2 * _hash(pixel, zero + 1, zero, seed) - 1,
        2 * _hash(pixel, zero + 2, zero, seed) - 1,
    )


@triton.jit
def _towards_light(scene, px, py, pz):
    light = scene + _LIGHT
    lx, ly, lz = tl.load(light), tl.load(light + 1), tl.load(light + 2)
    lamp = tl.load(scene + _LAMP) > 0
    x, y, z = lx - px, ly - py, lz - pz
    length = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-6))
    ratio = length / tl.load(scene + _LAMP_REACH)
    fall_off = tl.where(lamp, 2.0 / (1 + ratio * ratio), 1.0)
    reach = tl.where(lamp, length, _FARTHEST)
    return (
        tl.where(lamp, x / length, lx),
        tl.where(lamp, y / length, ly),
        tl.where(lamp, z / length, lz),
        reach,
        fall_off,
    )


@triton.jit
def _ambient(scene, channel, upward):
    down = tl.load(scene + _AMBIENT_DOWN + channel)
    return down + (tl.load(scene + _AMBIENT_UP + channel) - down) * upward


@triton.jit
def _reflected(table, count, scene, ox, oy, oz, dx, dy, dz):
    zero = 0.0
    distance, index = _trace(
        table, count, ox, oy, oz, dx, dy, dz, zero, zero, zero, zero, zero, zero, zero, zero, CULL=False
    )
    row = table + index * _COLUMNS
    px, py, pz = ox + distance * dx, oy + distance * dy, oz + distance * dz
    nx, ny, nz, x, y, z, axis = _surface(row, px, py, pz)
    sign = tl.where(nx * dx + ny * dy + nz * dz > 0, -1.0, 1.0)
    nx, ny, nz = nx * sign, ny * sign, nz * sign
    red, green, blue = _albedo(row, x, y, z, axis, distance * 0.01)
    lx, ly, lz, _, fall_off = _towards_light(scene, px, py, pz)
    lit = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0) * fall_off * 0.7
    upward = 0.5 + 0.5 * ny
    colour = scene + _LIGHT_COLOUR
    sr, sg, sb = _sky(scene, dx, dy, dz)
    missed = distance >= _FARTHEST
    return (
        tl.where(missed, sr, red * (_ambient(scene, 0, upward) + tl.load(colour) * lit)),
        tl.where(missed, sg, green * (_ambient(scene, 1, upward) + tl.load(colour + 1) * lit)),
        tl.where(missed, sb, blue * (_ambient(scene, 2, upward) + tl.load(colour + 2) * lit)),
    )


@triton.jit
def _ripple(scene, px, pz):
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32) + 3
    x, y, z = px * 1.7, px * 0.0, pz * 4.0
    strength = tl.load(scene + _RIPPLE)
    first = _noise(x, y, z, seed) + 0.5 * _noise(x * 3.1, y, z * 3.1, seed) - 0.75
    second = _noise(x, y, z, seed + 1) + 0.5 * _noise(x * 3.1, y, z * 3.1, seed + 1) - 0.75
    return strength * first, strength * second


@triton.jit
def _camera_ray(scene, px, py, height, width):
    short = tl.minimum(height, width).to(tl.float32)
    tangent = tl.load(scene + _TANGENT)
    u = ((2 * (px + 0.5) - width) / short + tl.load(scene + _PRINCIPAL)) * tangent
    v = ((height - 2 * (py + 0.5)) / short + tl.load(scene + _PRINCIPAL + 1)) * tangent
    cosine = tl.rsqrt(u * u + v * v + 1)
    r = scene + _ROTATION
    return (
        (tl.load(r) * u + tl.load(r + 1) * v + tl.load(r + 2)) * cosine,
        (tl.load(r + 3) * u + tl.load(r + 4) * v + tl.load(r + 5)) * cosine,
        (tl.load(r + 6) * u + tl.load(r + 7) * v + tl.load(r + 8)) * cosine,
        cosine,
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
    lx, ly, lz, reach, fall_off = _towards_light(scene, px, py, pz)
    tx, ty, tz, length, _ = _towards_light(scene, mx, my, mz)
    softness = tl.load(scene + _SOFTNESS)
    wx, wy, wz = _jitter(pixel, scene, 11)
    rx, ry, rz = _unit(lx + softness * wx, ly + softness * wy, lz + softness * wz)
    lit = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0) * fall_off
    lit *= _transmitted(
        table, count, sx, sy, sz, rx, ry, rz, reach, mx, my, mz, around, tx, ty, tz, length, softness * 1.8
    )
    wx, wy, wz = _jitter(pixel, scene, 23)
    wx, wy, wz = _unit(wx, wy, wz)
    rx, ry, rz = _unit(fx + 0.95 * wx, fy + 0.95 * wy, fz + 0.95 * wz)
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
    dx, dy, dz, cosine = _camera_ray(scene, px.to(tl.float32), py.to(tl.float32), height, width)
    ex, ey, ez = tl.load(scene + _EYE), tl.load(scene + _EYE + 1), tl.load(scene + _EYE + 2)
    mx, my, mz = _unit(tl.sum(dx, 0), tl.sum(dy, 0), tl.sum(dz, 0))
    cone = tl.minimum(tl.min(dx * mx + dy * my + dz * mz, 0), 1.0)
    sine = tl.sqrt(1 - cone * cone) + 1e-4
    zero = dx * 0
    ox, oy, oz = ex + zero, ey + zero, ez + zero
    distance, index = _trace(table, count, ox, oy, oz, dx, dy, dz, ex, ey, ez, mx, my, mz, cone, sine, CULL=True)
    hit = distance < _FARTHEST
    red, green, blue = _sky(scene, dx, dy, dz)
    if tl.sum(hit.to(tl.int32), 0) > 0:
        row = table + index * _COLUMNS
        x, y, z = ox + distance * dx, oy + distance * dy, oz + distance * dz
        fx, fy, fz, qx, qy, qz, axis = _surface(row, x, y, z)
        short = tl.minimum(height, width).to(tl.float32)
        footprint = distance * tl.load(scene + _TANGENT) * (2.0 / short)
        nx, ny, nz = _bumped(row, qx, qy, qz, fx, fy, fz, footprint)
        sign = tl.where(nx * dx + ny * dy + nz * dz > 0, -1.0, 1.0)
        nx, ny, nz = nx * sign, ny * sign, nz * sign
        sign = tl.where(fx * dx + fy * dy + fz * dz > 0, -1.0, 1.0)
        fx, fy, fz = fx * sign, fy * sign, fz * sign
        ar, ag, ab = _albedo(row, qx, qy, qz, axis, footprint)
        off = 0.002 * distance + 0.001
        sx, sy, sz = x + off * fx, y + off * fy, z + off * fz
        lit, free, lx, ly, lz = _lit(table, count, scene, pixel, sx, sy, sz, x, y, z, nx, ny, nz, fx, fy, fz, hit)
        hx, hy, hz = _unit(lx - dx, ly - dy, lz - dz)
        shine = tl.exp(40 * tl.log(tl.maximum(nx * hx + ny * hy + nz * hz, 1e-4))) * tl.load(row + _GLOSS) * lit
        upward = 0.5 + 0.5 * ny
        emission = tl.load(row + _EMISSION)
        c0, c1, c2 = (
            tl.load(scene + _LIGHT_COLOUR),
            tl.load(scene + _LIGHT_COLOUR + 1),
            tl.load(scene + _LIGHT_COLOUR + 2),
        )
        ar = ar * (_ambient(scene, 0, upward) * free + c0 * lit + emission) + shine * c0
        ag = ag * (_ambient(scene, 1, upward) * free + c1 * lit + emission) + shine * c1
        ab = ab * (_ambient(scene, 2, upward) * free + c2 * lit + emission) + shine * c2
        mirror = tl.load(scene + _MIRROR)
        wet = hit & (index == 0)
        if (mirror > 0) & (tl.sum(wet.to(tl.int32), 0) > 0):
            rx, rz = _ripple(scene, x, z)
            rx, ry, rz = _unit(fx + rx, fy, fz + rz)
            bounce = 2 * (dx * rx + dy * ry + dz * rz)
            rx, ry, rz = _unit(dx - bounce * rx, dy - bounce * ry, dz - bounce * rz)
            ir, ig, ib = _reflected(table, count, scene, sx, sy, sz, rx, ry, rz)
            grazing = 1 - tl.abs(dx * fx + dy * fy + dz * fz)
            share = tl.where(wet, mirror * (0.15 + 0.85 * grazing * grazing), 0.0)
            ar, ag, ab = ar + (ir - ar) * share, ag + (ig - ag) * share, ab + (ib - ab) * share
        clear = tl.exp(-tl.minimum(distance, 2000.0) * tl.load(scene + _HAZE))
        h0, h1, h2 = tl.load(scene + _HORIZON), tl.load(scene + _HORIZON + 1), tl.load(scene + _HORIZON + 2)
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
