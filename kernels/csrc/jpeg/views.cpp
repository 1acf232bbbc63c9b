#include "jpeg/views.h"

#include <algorithm>
#include <climits>
#include <cstring>

namespace fastsemi {
namespace {

// Largest level (decoding at 1 / 2^level) that leaves 1.5 samples per output along both axes. Coefficients that are
// dropped lie beyond what the filter passes, but it is not steep: with 1 sample the mean difference from the
// full decode can exceed two levels, with 1.5 it stays below one.
int choose_level(const Window& w, const Grid& x, const Grid& y, int side) {
    const int64_t width = w.width / x.factor, height = w.height / y.factor;
    int level = 0;
    while (level < 2 && 2 * (std::min(width, height) >> (level + 1)) >= 3 * static_cast<int64_t>(side)) ++level;
    return level;
}

// What the full transform gives for a block's mean alone, its 16-bit saturation included.
void fill_block(int16_t coef, uint16_t quant, uint8_t* dst, ptrdiff_t stride) {
    const int dc = static_cast<int16_t>(static_cast<uint32_t>(coef) * quant);
    const int value = ((std::clamp(4 * dc, -32768, 32767) + 16) >> 5) + 128;
    for (int y = 0; y < 8; ++y) std::memset(dst + y * stride, std::clamp(value, 0, 255), 8);
}

}  // namespace

ComponentLayout pixel_layout(int width, int height) {
    const Grid x{width, 1, Upsampling::replicate, 1}, y{height, 1, Upsampling::replicate, 1};
    return {x, y, (width + 7) / 8, (height + 7) / 8, nullptr};
}

void Views::plan(const std::vector<ComponentLayout>& layout, Color color, const Window* windows, int count, int side,
                 bool shrink) {
    windows_ = windows;
    count_ = count;
    side_ = side;
    color_ = color;
    step_ = color == Color::pixels ? 3 : 1;
    used_components_ = static_cast<int>(layout.size());
    if (components_.size() < layout.size()) components_.resize(layout.size());
    for (int c = 0; c < used_components_; ++c) {
        Component& component = components_[c];
        component.like = 0;
        while (!(layout[component.like].x == layout[c].x && layout[component.like].y == layout[c].y)) ++component.like;
        if (component.like == c) plan_views(layout[c], shrink, component);
        plan_planes(layout[c], component);
    }
}

void Views::plan_views(const ComponentLayout& layout, bool shrink, Component& c) {
    c.views.resize(count_);
    for (int i = 0; i < count_; ++i) {
        const Window& w = windows_[i];
        ComponentView& view = c.views[i];
        Grid x = layout.x, y = layout.y;
        view.level = shrink ? choose_level(w, x, y, side_) : 0;
        x.shrink = y.shrink = 1 << view.level;
        build_axis(w.left, w.width, side_, w.flip, x, scratch_, view.x);
        build_axis(w.top, w.height, side_, false, y, scratch_, view.y);
        const int n = 8 >> view.level;
        view.col0 = view.x.first / n;
        view.col1 = std::min(layout.block_cols, (view.x.last + n - 1) / n);
        view.row0 = view.y.first / n;
        view.row1 = std::min(layout.block_rows, (view.y.last + n - 1) / n);
    }
}

void Views::plan_planes(const ComponentLayout& layout, Component& c) {
    for (Plane& plane : c.planes) plane.used = false;
    c.need.resize(4 * (static_cast<size_t>(layout.block_cols) + 3));
    c.first_row = layout.block_rows;
    c.end_row = 0;
    for (const ComponentView& view : views_of(c)) {
        Plane& p = c.planes[view.level];
        p.col0 = p.used ? std::min(p.col0, view.col0) : view.col0;
        p.col1 = p.used ? std::max(p.col1, view.col1) : view.col1;
        p.row0 = p.used ? std::min(p.row0, view.row0) : view.row0;
        p.row1 = p.used ? std::max(p.row1, view.row1) : view.row1;
        p.used = true;
        c.first_row = std::min(c.first_row, view.row0);
        c.end_row = std::max(c.end_row, view.row1);
    }
    size_t taps = 0;  // the last row is read on for so many, with weights of zero
    for (const ComponentView& view : views_of(c)) taps = std::max(taps, static_cast<size_t>(view.x.taps));
    for (int level = 0; level < 3; ++level) {
        Plane& p = c.planes[level];
        if (!p.used) continue;
        const int n = 8 >> level;
        p.stride = ((p.col1 - p.col0) * n + 63) & ~63;
        if (color_ == Color::pixels) {
            p.col0 = 0;
            p.stride = step_ * static_cast<ptrdiff_t>(layout.x.size);
        }
        const size_t bytes = static_cast<size_t>(p.stride) * (p.row1 - p.row0) * n + step_ * taps + kPadding;
        if (p.memory.size() < bytes) p.memory.resize(bytes);
    }
    // The kernels want coefficients and quantisers column by column.
    for (int i = 0; i < 64 && layout.quant; ++i) c.quant[(i % 8) * 8 + i / 8] = layout.quant[i];
    std::memset(c.slots, 0, sizeof c.slots);
    c.queued = 0;
}

BlockRow Views::begin_row(int component, int block_row, int lane) {
    Component& c = components_[component];
    int from = INT_MAX, to = 0;
    uint8_t* need = c.need.data() + lane * c.need.size() / 4;
    std::memset(need, 0, c.need.size() / 4);
    for (const ComponentView& v : views_of(c)) {
        if (block_row < v.row0 || block_row >= v.row1) continue;
        for (int x = v.col0; x < v.col1; ++x) need[x] = static_cast<uint8_t>(need[x] | 1 << v.level);
        from = std::min(from, v.col0);
        to = std::max(to, v.col1);
    }
    return {need, from, to};
}

void Views::commit_rare(Component& c, int block_col, int block_row, int need, bool only_dc) {
    int16_t* coef = c.slots + kBlockStep * c.queued;
    bool queue = false;
    for (int level = 0; need >> level; ++level) {
        if (!(need >> level & 1)) continue;
        Plane& p = c.planes[level];
        const int n = 8 >> level;
        uint8_t* dst = p.at((block_col - p.col0) * n, (block_row - p.row0) * n);
        if (level > 0) {
            idct_shrunk(n, coef, c.quant, dst, p.stride);
        } else if (only_dc) {
            fill_block(coef[0], c.quant[0], dst, p.stride);
        } else {
            c.dst[c.queued] = dst;
            queue = true;
        }
    }
    if (!queue) {
        std::memset(coef, 0, 64 * sizeof(int16_t));
    } else if (++c.queued == kQueue) {
        flush(c);
    }
}

void Views::flush(Component& c) {
    if (c.queued > 0) kernels_.idct(c.slots, c.quant, c.dst, c.planes[0].stride, c.queued);
    std::memset(c.slots, 0, sizeof(int16_t) * kBlockStep * c.queued);
    c.queued = 0;
}

void Views::finish() {
    for (int c = 0; c < used_components_; ++c) flush(components_[c]);
    for (int i = 0; i < count_; ++i) resize_view(i);
    // Memory for usual images is kept, that for giants is not.
    constexpr size_t keep = size_t{32} << 20;
    for (Component& c : components_) {
        for (Plane& p : c.planes) {
            if (p.memory.size() > keep) std::vector<uint8_t>().swap(p.memory);
        }
    }
}

void Views::resize_view(int index) {
    const Window& window = windows_[index];
    line_stride_ = ((step_ * side_ + 63) & ~63) + kPadding;
    for (int i = 0; i < used_components_; ++i) {
        Component& c = components_[i];
        const ComponentView& view = views_of(c)[index];
        if (c.like == i) {
            if (step_ > 1) interleave(view.x, step_, bytes_);
            build_row_filter(step_ > 1 ? bytes_ : view.x, c.planes[view.level].col0 * (8 >> view.level), step_, kernels_,
                             c.row_filter);
            build_column_filter(view.y, c.column_filter);
        }
        const int pairs = components_[c.like].column_filter.pairs;
        const size_t ring = 2 * static_cast<size_t>(line_stride_) * pairs;
        if (c.ring.size() < ring) c.ring.resize(ring);
        c.around.resize(2 * static_cast<size_t>(pairs));
        for (int t = 0; t < 2 * pairs; ++t) c.around[t] = c.ring.data() + t % pairs * 2 * line_stride_;
        if (c.line.size() < static_cast<size_t>(line_stride_)) c.line.resize(line_stride_);
        c.next = 0;
    }
    const bool three = used_components_ == 3;
    const auto to_rgb = color_ == Color::ycc ? kernels_.ycc_to_rgb : kernels_.planes_to_rgb;
    const size_t row = 3 * static_cast<size_t>(side_);
    const auto line = [&](int i) { return components_[three ? i : 0].line.data(); };
    for (int y = 0; y < side_; ++y) {
        uint8_t* out = window.out + y * row;
        if (color_ != Color::pixels) {
            for (int i = 0; i < used_components_; ++i) resize_line(components_[i], index, y, line(i));
            to_rgb(line(0), line(1), line(2), side_, out);
        } else if ((side_ - y) * row >= row + 63) {  // what is written too much is written again
            resize_line(components_[0], index, y, out);
        } else {
            resize_line(components_[0], index, y, line(0));
            std::memcpy(out, line(0), row);
        }
    }
}

// Row y of a view: the pairs of rows it needs are filtered horizontally once and kept in a ring of lines. Pairs do not
// reach over the plane, which begins with an even row and has an even number of them.
void Views::resize_line(Component& c, int index, int y, uint8_t* out) {
    const int level = views_of(c)[index].level;
    Plane& plane = c.planes[level];
    const Component& like = components_[c.like];
    const ColumnFilter& filter = like.column_filter;
    const int pairs = filter.pairs, start = filter.start[y], origin = plane.row0 * (8 >> level);
    const int end = std::min(start + pairs, filter.end);
    int16_t* const* lines = &c.around[start % pairs];
    for (c.next = std::max(c.next, start); c.next < end; ++c.next) {
        kernels_.horizontal(plane.at(0, 2 * c.next - origin), plane.stride, like.row_filter, lines[c.next - start]);
    }
    const int16_t* weight = &filter.weight[2 * static_cast<size_t>(y) * pairs];
    kernels_.vertical(lines, weight, pairs, step_ * side_, out);
}

}  // namespace fastsemi
