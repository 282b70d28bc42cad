# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# Triton reads these functions as its own language: no annotations but constexpr, vectors as three arguments each, and
# compile-time parameters in capitals.
"""What a point looks like: noise, surfaces, textures, sky and light as Triton functions.

`reference_renderer` holds the same functions with their explanations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from training.demo_weights import columns as col

_TO_LOCAL = tl.constexpr(col.TO_LOCAL)
KIND = tl.constexpr(col.KIND)
_COLOUR_A = tl.constexpr(col.COLOUR_A)
_COLOUR_B = tl.constexpr(col.COLOUR_B)
_TEXTURE = tl.constexpr(col.TEXTURE)
_TEXTURE_FREQUENCY = tl.constexpr(col.TEXTURE_FREQUENCY)
_BUMP = tl.constexpr(col.BUMP)
SEED = tl.constexpr(col.SEED)
_HALF_SIZE = tl.constexpr(col.HALF_SIZE)
_CONTRAST = tl.constexpr(col.CONTRAST)
BOX = tl.constexpr(col.BOX)
ELLIPSOID = tl.constexpr(col.ELLIPSOID)
_CYLINDER = tl.constexpr(col.CYLINDER)
CONE = tl.constexpr(col.CONE)
_TILES = tl.constexpr(col.TEXTURE_TILES)
_BRICKS = tl.constexpr(col.TEXTURE_BRICKS)
_PLANKS = tl.constexpr(col.TEXTURE_PLANKS)
_WINDOWS = tl.constexpr(col.TEXTURE_WINDOWS)
_PATCHES = tl.constexpr(col.TEXTURE_PATCHES)
TANGENT = tl.constexpr(col.TANGENT)
_PRINCIPAL = tl.constexpr(col.PRINCIPAL)
_ROTATION = tl.constexpr(col.ROTATION)
_LIGHT = tl.constexpr(col.LIGHT)
_LAMP = tl.constexpr(col.LAMP)
LIGHT_COLOUR = tl.constexpr(col.LIGHT_COLOUR)
_AMBIENT_UP = tl.constexpr(col.AMBIENT_UP)
_AMBIENT_DOWN = tl.constexpr(col.AMBIENT_DOWN)
_ZENITH = tl.constexpr(col.ZENITH)
HORIZON = tl.constexpr(col.HORIZON)
_CLOUDS = tl.constexpr(col.CLOUDS)
_RIPPLE = tl.constexpr(col.RIPPLE)
_SCENE_SEED = tl.constexpr(col.SCENE_SEED)
_LAMP_REACH = tl.constexpr(col.LAMP_REACH)
FARTHEST = tl.constexpr(col.FARTHEST)
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
def noise(px, py, pz, seed):
    """Value noise in [0, 1)."""
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
def unit(x, y, z):
    """Scale to length one."""
    scale = tl.rsqrt(tl.maximum(x * x + y * y + z * z, 1e-20))
    return x * scale, y * scale, z * scale


@triton.jit
def nonzero(v):
    """Keep denominators away from zero."""
    return tl.where(tl.abs(v) < _TINY, _TINY, v)


@triton.jit
def to_local(row, x, y, z):
    """Apply a primitive's linear map."""
    m = row + _TO_LOCAL
    return (
        tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z,
        tl.load(m + 3) * x + tl.load(m + 4) * y + tl.load(m + 5) * z,
        tl.load(m + 6) * x + tl.load(m + 7) * y + tl.load(m + 8) * z,
    )


@triton.jit
def surface(row, px, py, pz):
    """Normal, local point in metres and closest local axis."""
    x, y, z = to_local(row, px - tl.load(row), py - tl.load(row + 1), pz - tl.load(row + 2))
    kind = tl.load(row + KIND)
    side = tl.sqrt(x * x + z * z)
    ax, ay, az = tl.abs(x), tl.abs(y), tl.abs(z)
    box_x = (ax >= ay) & (ax >= az)
    box_y = (ay > ax) & (ay >= az)
    cap = ((kind == _CYLINDER) & (ay > side)) | ((kind == CONE) & (y < -0.999))
    is_box = kind == BOX
    sx, sy, sz = tl.where(x < 0, -1.0, 1.0), tl.where(y < 0, -1.0, 1.0), tl.where(z < 0, -1.0, 1.0)
    nx = tl.where(is_box, tl.where(box_x, sx, 0.0), tl.where(cap, 0.0, x))
    nz = tl.where(is_box, tl.where(box_x | box_y, 0.0, sz), tl.where(cap, 0.0, z))
    slope_y = tl.where(kind == ELLIPSOID, y, tl.where(kind == CONE, 0.25 * (1 - y), 0.0))
    ny = tl.where(is_box, tl.where(box_y, sy, 0.0), tl.where(cap, sy, slope_y))
    axis = tl.where(tl.abs(nx) > tl.maximum(tl.abs(ny), tl.abs(nz)), 0, tl.where(tl.abs(ny) > tl.abs(nz), 1, 2))
    m = row + _TO_LOCAL
    wx = tl.load(m) * nx + tl.load(m + 3) * ny + tl.load(m + 6) * nz
    wy = tl.load(m + 1) * nx + tl.load(m + 4) * ny + tl.load(m + 7) * nz
    wz = tl.load(m + 2) * nx + tl.load(m + 5) * ny + tl.load(m + 8) * nz
    wx, wy, wz = unit(wx, wy, wz)
    h = row + _HALF_SIZE
    return wx, wy, wz, x * tl.load(h), y * tl.load(h + 1), z * tl.load(h + 2), axis


@triton.jit
def _texture(row, x, y, z, axis, footprint):
    kind, frequency = tl.load(row + _TEXTURE), tl.load(row + _TEXTURE_FREQUENCY)
    seed = tl.load(row + SEED).to(tl.int32)
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
    rough = noise(x * 2.17, y * 2.17, z * 2.17, seed + 1)
    rougher = noise(x * 4.9, y * 4.9, z * 4.9, seed + 2)
    fbm = 0.5 * noise(x, y, z, seed) + 0.3 * rough + 0.2 * rougher
    fbm = tl.minimum(tl.maximum(1.6 * fbm - 0.3, 0.0), 1.0)
    checker = (cell_u + cell_v) - 2 * tl.floor((cell_u + cell_v) * 0.5)
    tiles = tl.where(joint, 1.0, tl.where((seed & 3) == 0, checker * 0.8, tone * 0.45))
    planks = tl.where(joint, 1.0, 0.75 * tone + 0.25 * rougher)
    pane = (fu > 0.22) & (fu < 0.78) & (fv > 0.2) & (fv < 0.82)
    windows = tl.where(pane, tl.where(tone > 0.2, 1.0, 0.8), 0.12 * rough)
    patches = (noise(x * 0.7, y * 0.7, z * 0.7, seed + 3) - 0.42) * 7
    patches = tl.minimum(tl.maximum(patches, 0.0), 1.0) * 0.8 + 0.2 * rough
    weight = tl.where(kind == _TILES, tiles, fbm)
    weight = tl.where(is_brick, tl.where(joint, 1.0, 0.6 * tone + 0.1 * rough), weight)
    weight = tl.where(is_plank, planks, weight)
    weight = tl.where(kind == _WINDOWS, windows, weight)
    weight = tl.where(kind == _PATCHES, patches, weight)
    blur = footprint * frequency * 1.5
    return 0.4 + (weight - 0.4) / (1 + blur * blur)


@triton.jit
def albedo(row, x, y, z, axis, footprint):
    """Diffuse reflectance."""
    weight = _texture(row, x, y, z, axis, footprint) * tl.load(row + _CONTRAST)
    f = tl.load(row + _TEXTURE_FREQUENCY) * 0.23
    wear = 0.7 + 0.6 * noise(x * f, y * f, z * f, tl.load(row + SEED).to(tl.int32) + 5)
    a, b = row + _COLOUR_A, row + _COLOUR_B
    r0, g0, b0 = tl.load(a), tl.load(a + 1), tl.load(a + 2)
    red = (r0 + (tl.load(b) - r0) * weight) * wear
    green = (g0 + (tl.load(b + 1) - g0) * weight) * wear
    blue = (b0 + (tl.load(b + 2) - b0) * weight) * wear
    return tl.minimum(red, 1.0), tl.minimum(green, 1.0), tl.minimum(blue, 1.0)


@triton.jit
def bumped(row, x, y, z, nx, ny, nz, footprint):
    """Normal tilted by the gradient of noise."""
    f = tl.load(row + _TEXTURE_FREQUENCY)
    x, y, z = x * f * 2.0, y * f * 2.0, z * f * 2.0
    seed = tl.load(row + SEED).to(tl.int32) + 7
    here = noise(x, y, z, seed)
    blur = footprint * f * 3.0
    strength = tl.load(row + _BUMP) * 3.0 / (1 + blur * blur)
    gx = noise(x + 0.2, y, z, seed) - here
    gy = noise(x, y + 0.2, z, seed) - here
    gz = noise(x, y, z + 0.2, seed) - here
    tilt = gx * nx + gy * ny + gz * nz
    return unit(nx - strength * (gx - tilt * nx), ny - strength * (gy - tilt * ny), nz - strength * (gz - tilt * nz))


@triton.jit
def _sky_channel(scene, channel, gradient, cloud, bright, glow):
    top, low = tl.load(scene + _ZENITH + channel), tl.load(scene + HORIZON + channel)
    clear = low + (top - low) * gradient
    white = (0.3 * low + 0.7 * tl.maximum(low, 0.5)) * bright * 1.35
    return clear + (white - clear) * cloud + glow * tl.load(scene + LIGHT_COLOUR + channel)


@triton.jit
def sky(scene, dx, dy, dz):
    """Radiance of the sky."""
    height = tl.minimum(tl.maximum(dy, 0.0), 1.0)
    gradient = 1 - tl.exp(-3.0 * height)
    layer = 1.0 / (height + 0.12)
    x, y, z = dx * layer * 1.1, layer * 0.0, dz * layer * 1.1
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32)
    density = 0.55 * noise(x, y, z, seed) + 0.3 * noise(x * 2.3, y, z * 2.3, seed + 1)
    density += 0.15 * noise(x * 5.1, y, z * 5.1, seed + 2)
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
def jitter(pixel, scene, salt):
    """A point inside a cube for each pixel."""
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32) + salt
    zero = pixel * 0
    return (
        2 * _hash(pixel, zero, zero, seed) - 1,
        2 * _hash(pixel, zero + 1, zero, seed) - 1,
        2 * _hash(pixel, zero + 2, zero, seed) - 1,
    )


@triton.jit
def towards_light(scene, px, py, pz):
    """Direction, distance and strength of the light."""
    light = scene + _LIGHT
    lx, ly, lz = tl.load(light), tl.load(light + 1), tl.load(light + 2)
    lamp = tl.load(scene + _LAMP) > 0
    x, y, z = lx - px, ly - py, lz - pz
    length = tl.sqrt(tl.maximum(x * x + y * y + z * z, 1e-6))
    ratio = length / tl.load(scene + _LAMP_REACH)
    fall_off = tl.where(lamp, 2.0 / (1 + ratio * ratio), 1.0)
    reach = tl.where(lamp, length, FARTHEST)
    return (
        tl.where(lamp, x / length, lx),
        tl.where(lamp, y / length, ly),
        tl.where(lamp, z / length, lz),
        reach,
        fall_off,
    )


@triton.jit
def ambient(scene, channel, upward):
    """One channel of the light from above and below."""
    down = tl.load(scene + _AMBIENT_DOWN + channel)
    return down + (tl.load(scene + _AMBIENT_UP + channel) - down) * upward


@triton.jit
def ripple(scene, px, pz):
    """Slope of the mirror at a point of the ground."""
    seed = tl.load(scene + _SCENE_SEED).to(tl.int32) + 3
    x, y, z = px * 1.7, px * 0.0, pz * 4.0
    strength = tl.load(scene + _RIPPLE)
    first = noise(x, y, z, seed) + 0.5 * noise(x * 3.1, y, z * 3.1, seed) - 0.75
    second = noise(x, y, z, seed + 1) + 0.5 * noise(x * 3.1, y, z * 3.1, seed + 1) - 0.75
    return strength * first, strength * second


@triton.jit
def camera_ray(scene, px, py, height, width):
    """Direction through a pixel and its cosine to the optical axis."""
    short = tl.minimum(height, width).to(tl.float32)
    tangent = tl.load(scene + TANGENT)
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
