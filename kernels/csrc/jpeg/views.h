// The views of one image: which blocks of it they need, the planes those decode to, and their resize.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "simd/filter.h"
#include "simd/kernels.h"

namespace fastsemi {

struct Window {
    int left, top, width, height;  // source pixels
    bool flip;
    uint8_t* out;  // [side, side, 3]
};

// One colour component as the file stores it.
struct ComponentLayout {
    Grid x, y;                   // shrink is chosen by Views
    int block_cols, block_rows;  // blocks of 8 x 8 samples
    const uint16_t* quant;       // 64 values in row order, or null for pixels
};

// What the components are. `pixels`: one, made of width x height pixels of 3 bytes that are written to Views::rows.
enum class Color { gray, rgb, ycc, pixels };

ComponentLayout pixel_layout(int width, int height);

// Which blocks of a row of blocks lie in a window: one byte for each, 0 for none, followed by 3 more zeros. All that do
// are among columns `from` to `to` - 1.
struct BlockRow {
    const uint8_t* need;
    int from, to;
};

// Working memory and state of one image at a time; one object per thread, reused.
class Views {
public:
    explicit Views(const Kernels& kernels) : kernels_(kernels) {}

    // Plans the decode. Windows must lie inside the image. With `shrink`, components that every axis of a
    // window reduces at least threefold are decoded at 1/2 or 1/4 of their size.
    void plan(const std::vector<ComponentLayout>& layout, Color color, const Window* windows, int count, int side,
              bool shrink);

    // The answer is kept for 4 rows of a component, one in each `lane`.
    BlockRow begin_row(int component, int block_row, int lane);
    int first_row(int component) const { return components_[component].first_row; }
    int end_row(int component) const { return components_[component].end_row; }
    // The next block's 64 coefficients, zero, column by column, and a 65th value that is ignored. The caller
    // fills them, then commits the block with its byte from begin_row.
    int16_t* slot(int component) {
        Component& c = components_[component];
        return c.slots + kBlockStep * c.queued;
    }
    void commit(int component, int block_col, int block_row, int need, bool only_dc) {
        Component& c = components_[component];
        if (need != 1 || only_dc) return commit_rare(c, block_col, block_row, need, only_dc);
        Plane& p = c.planes[0];
        c.dst[c.queued] = p.at((block_col - p.col0) * 8, (block_row - p.row0) * 8);
        if (++c.queued == kQueue) flush(c);
    }

    // Instead of blocks: the rows that the views need of an image of `height` rows, and where their pixels go, whole
    // rows one behind the other. Planned as Color::pixels without `shrink`.
    struct Rows {
        int first, end;
        uint8_t* at;
    };
    Rows rows(int height) {
        Plane& p = components_[0].planes[0];
        return {8 * p.row0, std::min(height, 8 * p.row1), p.memory.data()};
    }

    // Decodes what is queued and writes all views.
    void finish();

private:
    static constexpr int kQueue = 16;

    struct Plane {
        bool used = false;
        int col0 = 0, col1 = 0, row0 = 0, row1 = 0;  // blocks
        ptrdiff_t stride = 0;
        std::vector<uint8_t> memory;
        uint8_t* at(int x, int y) { return memory.data() + y * stride + x; }
    };
    struct ComponentView {
        Axis x, y;
        int level;                   // log2 of shrink
        int col0, col1, row0, row1;  // blocks
    };
    struct Component {
        int like;  // the first component with the same grids: the one whose `views` count
        std::vector<ComponentView> views;
        Plane planes[3];            // by level
        std::vector<uint8_t> need;  // bit per level, 4 lanes
        int first_row, end_row;
        uint16_t quant[64];
        alignas(64) int16_t slots[kBlockStep * kQueue];
        int queued = 0;        // slots that wait for the full inverse DCT
        uint8_t* dst[kQueue];  // where it goes
        // State of the resize of one view.
        RowFilter row_filter;                // of `like`
        ColumnFilter column_filter;          // of `like`
        LineVector<int16_t> ring;            // pairs of rows, filtered horizontally
        std::vector<int16_t*> around;        // its lines, twice
        LineVector<uint8_t> line;            // the finished row
        int next = 0;                        // pair of rows
    };

    const std::vector<ComponentView>& views_of(const Component& c) const { return components_[c.like].views; }
    void plan_views(const ComponentLayout& layout, bool shrink, Component& c);
    void plan_planes(const ComponentLayout& layout, Component& c);
    void commit_rare(Component& c, int block_col, int block_row, int need, bool only_dc);
    void flush(Component& c);
    void resize_view(int view);
    void resize_line(Component& c, int view, int y, uint8_t* out);

    const Kernels& kernels_;
    std::vector<Component> components_;
    FilterScratch scratch_;
    Axis bytes_;  // the axis x of pixels
    const Window* windows_ = nullptr;
    int count_ = 0, side_ = 0, used_components_ = 0;
    int step_ = 1;  // bytes from a sample to the next
    ptrdiff_t line_stride_ = 0;
    Color color_ = Color::gray;
};

}  // namespace fastsemi
